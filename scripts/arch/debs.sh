#!/usr/bin/env bash
# Unpacks Debian packages of any suite and architecture into a folder. Nothing is installed, root is not
# needed; the packages' own scripts do not run.
#
#   debs.sh SUITE ARCH FOLDER PACKAGE[=VERSION]...     exactly these
#   debs.sh SUITE ARCH FOLDER --all PACKAGE...         and what they depend on
#   debs.sh SUITE ARCH --versions PACKAGE              its versions, one a line
#   debs.sh SUITE ARCH --needs PACKAGE                 the packages that it depends on, one a line
source "$(dirname "$0")/common.sh"

suite=$1 arch=$2 folder=$3
shift 3
mirror=$(debian_mirror)
[ -n "$mirror" ] || die 'There are no Debian sources here: DEBIAN_MIRROR must name a mirror, and debian-archive-keyring be installed.'

# An apt of its own, which knows of nothing that is installed.
apt=$cache/apt/$suite-$arch
mkdir -p "$apt"/{parts,state/lists/partial,cache/archives/partial}
: >"$apt/state/status"
echo "deb [arch=$arch signed-by=$keyring] $mirror $suite main" >"$apt/sources.list"
cat >"$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "$apt/parts";
Dir::Etc::preferencesparts "$apt/parts";
Dir::State "$apt/state";
Dir::State::status "$apt/state/status";
Dir::Cache "$apt/cache";
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
CONF
export APT_CONFIG=$apt/apt.conf
exec 7>"$apt/lock"
flock 7
# Once a day is enough.
if [ -z "$(find "$apt/updated" -mmin -1440 2>/dev/null)" ]; then
  apt-get -qq update >&2
  touch "$apt/updated"
fi

case $folder in
  --versions) apt-cache madison "$1" | awk '{ print $3 }' ;;
  --needs) apt-cache depends "$1" | awk '$1 == "Depends:" { print $2 }' ;;
  *)
    mkdir -p "$folder"
    archives=$apt/cache/archives
    rm -f "$archives"/*.deb
    if [ "$1" = --all ]; then
      shift
      apt-get -qq -y --download-only install "$@" >&2
    else
      (cd "$archives" && apt-get -qq download "$@" >&2)
    fi
    for deb in "$archives"/*.deb; do
      dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$folder" --no-same-owner --keep-directory-symlink
    done
    rm -f "$archives"/*.deb
    ;;
esac
