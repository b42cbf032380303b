//! Whether a file may be a segment at all, before a byte of it is read.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Code, Error, Result};
use crate::sys::file;

/// What open(2) refused.
pub fn cannot_open(path: &Path, error: &io::Error) -> Error {
    let mut refusal = Error::from_os(error, "open", &format!("open {}", path.display()));
    match error.raw_os_error() {
        Some(libc::ELOOP) => {
            refusal.code = Code::Permission;
            refusal.message = format!(
                "{} is a symbolic link, which a segment is not; give the path that it leads to",
                path.display()
            );
        }
        Some(libc::EISDIR | libc::ENXIO) => {
            refusal.code = Code::Corrupt;
            refusal.message = not_regular(path);
        }
        _ => {}
    }
    refusal
}

/// Who may write to a segment may make every process that maps it write anywhere: the list pointers
/// of the mutexes live in it. So the file must be its user's alone.
pub fn check_file(path: &Path, file: &File, meta: &std::fs::Metadata) -> Result<()> {
    let shown = path.display();
    if !meta.is_file() {
        return Err(Error::new(Code::Corrupt, not_regular(path)));
    }
    let refuse = |why: String| Err(Error::new(Code::Permission, format!("{shown} {why}")));
    let uid = file::effective_uid();
    if meta.uid() != uid {
        return refuse(format!(
            "belongs to user {}, this process is user {uid}; choose another path",
            meta.uid()
        ));
    }
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o7777;
        return refuse(format!("has mode {mode:04o}: others may use it; it must be 0600"));
    }
    if meta.nlink() != 1 {
        return refuse(format!(
            "has {} hard links, a segment has one; remove the others",
            meta.nlink()
        ));
    }
    if !file::on_tmpfs(file).map_err(|e| Error::from_os(&e, "fstatfs", "open the segment"))? {
        return Err(not_tmpfs(path));
    }
    Ok(())
}

fn not_regular(path: &Path) -> String {
    format!("{} is not a regular file, which a segment is; choose another path", path.display())
}

pub fn not_tmpfs(path: &Path) -> Error {
    let message = format!(
        "{} is not on a tmpfs (on a disk, pages would be written back and survive a reboot); choose \
         a folder on one, such as /dev/shm",
        path.display()
    );
    Error::new(Code::NotTmpfs, message)
}
