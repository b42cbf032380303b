//! What is no segment, or nobody's to open, is refused, each with its own code.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use robust_lock_core::{Code, Manager, Mode, private_folder};
use support::{TempSegment, code, made_by_a_child, options, patch, refused, serve};

/// `open PATH`: whether that created it.
#[test]
fn child_entry() {
    serve(|words| Manager::open(&options(Path::new(words[1]))).unwrap().1.to_string());
}

#[test]
fn what_is_not_a_segment_is_refused() {
    let segment = TempSegment::new("corrupt");
    let path = segment.path();
    std::fs::write(path, b"").unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(code(path), Code::Corrupt);
    std::fs::write(path, vec![0x5a; 100_000]).unwrap();
    assert_eq!(code(path), Code::Corrupt);
    std::fs::remove_file(path).unwrap();
    std::fs::create_dir(path).unwrap();
    assert_eq!(code(path), Code::Corrupt);
    std::fs::remove_dir(path).unwrap();
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(code(path), Code::Corrupt);
    std::fs::remove_file(path).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path).unwrap();
    assert_eq!(code(path), Code::Corrupt);
}

#[test]
fn a_header_that_differs_is_refused() {
    for (at, bytes, expected) in [
        (0, vec![0], Code::Corrupt),
        (8, 0x0d0c_0b0a_u32.to_ne_bytes().to_vec(), Code::Incompatible),
        (12, 2u32.to_ne_bytes().to_vec(), Code::Incompatible),
        (16, 1u32.to_ne_bytes().to_vec(), Code::Incompatible),
        (24, 16u32.to_ne_bytes().to_vec(), Code::Incompatible),
        (28, 23u32.to_ne_bytes().to_vec(), Code::Incompatible),
        (64, vec![0xff; 48], Code::Incompatible),
        (192, 0u32.to_ne_bytes().to_vec(), Code::Corrupt),
    ] {
        let segment = made_by_a_child("header");
        patch(segment.path(), at, &bytes);
        assert_eq!(code(segment.path()), expected, "at {at}");
    }
    let segment = made_by_a_child("size");
    let file = std::fs::OpenOptions::new().write(true).open(segment.path()).unwrap();
    file.set_len(1 << 20).unwrap();
    assert_eq!(code(segment.path()), Code::Corrupt);
}

#[test]
fn files_that_others_may_use_are_refused() {
    let segment = made_by_a_child("permission");
    let path = segment.path();
    for mode in [0o644, 0o660, 0o606] {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        assert_eq!(code(path), Code::Permission);
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    let second = TempSegment::new("link");
    std::fs::hard_link(path, second.path()).unwrap();
    assert_eq!(code(path), Code::Permission);
    std::fs::remove_file(second.path()).unwrap();
    symlink(path, second.path()).unwrap();
    assert_eq!(code(second.path()), Code::Permission);
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(65_534), None).unwrap();
        assert_eq!(code(path), Code::Permission);
        std::os::unix::fs::chown(path, Some(0), None).unwrap();
    }
    Manager::open(&options(path)).unwrap();
}

#[test]
fn the_folder_is_checked() {
    let folder = TempSegment::new("folder");
    assert_eq!(private_folder(Some(folder.path().to_owned()), true).unwrap(), folder.path());
    assert_eq!(std::fs::metadata(folder.path()).unwrap().mode() & 0o7777, 0o700);
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let refusal = private_folder(Some(folder.path().to_owned()), true).unwrap_err();
    assert_eq!(refusal.code, Code::Permission);
    assert!(refusal.message.contains("ROBUST_LOCK_DIR"));
    let link = TempSegment::new("folder-link");
    symlink(folder.path(), link.path()).unwrap();
    assert_eq!(
        private_folder(Some(link.path().to_owned()), true).unwrap_err().code,
        Code::Permission
    );
}

#[test]
fn only_a_tmpfs_will_do() {
    let disk = std::env::current_exe().unwrap().with_extension("segment");
    if nix::sys::statfs::statfs(disk.parent().unwrap()).unwrap().filesystem_type()
        == nix::sys::statfs::TMPFS_MAGIC
    {
        println!("not run: this build lies on a tmpfs itself");
        return;
    }
    assert_eq!(code(&disk), Code::NotTmpfs);
    assert!(!disk.exists());
}

#[test]
fn a_path_that_is_too_long_is_out_of_range() {
    let segment = TempSegment::new(&"x".repeat(256));
    for mode in [Mode::OpenOrCreate, Mode::Open, Mode::Create] {
        assert_eq!(refused(segment.path(), mode).code, Code::OutOfRange);
    }
}
