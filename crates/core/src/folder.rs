//! The folder that named segments live in: one a user, in the system's tmpfs.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::error::{Code, Error, Result};
use crate::sys::file;

/// `/dev/shm/robust-lock-<uid>`, or the folder that ROBUST_LOCK_DIR names; made if it is not there, unless
/// what is looked for in it must exist already. Anybody may have made a folder of that name in /dev/shm
/// before us, so it is checked each time.
///
/// # Errors
/// `Permission` if it is not a real directory of this user's that nobody else may use; what mkdir(2)
/// says.
pub fn private_folder(override_dir: Option<PathBuf>, make: bool) -> Result<PathBuf> {
    let uid = file::effective_uid();
    let named = override_dir.is_some();
    let folder =
        override_dir.unwrap_or_else(|| PathBuf::from(format!("/dev/shm/robust-lock-{uid}")));
    let shown = folder.display();
    let cannot = |syscall, error: &io::Error| {
        let by = if named { ", which ROBUST_LOCK_DIR names" } else { "" };
        Error::from_os(error, syscall, &format!("use the folder for segments {shown}{by}"))
    };
    if make {
        file::make_private_folder(&folder).map_err(|e| cannot("mkdir", &e))?;
    }
    let meta = match std::fs::symlink_metadata(&folder) {
        Ok(meta) => meta,
        // Opening will say what is not found.
        Err(error) if !make && error.kind() == io::ErrorKind::NotFound => return Ok(folder),
        Err(error) => return Err(cannot("lstat", &error)),
    };
    let wrong = if !meta.is_dir() {
        "is not a directory".to_owned()
    } else if meta.uid() != uid {
        format!("belongs to user {}, this process is user {uid}", meta.uid())
    } else if meta.mode() & 0o077 != 0 {
        format!("has mode {:04o}: others may use it; it must be 0700", meta.mode() & 0o7777)
    } else {
        return Ok(folder);
    };
    let message = format!(
        "{shown} {wrong}. Mend that, or name another folder in the environment variable \
         ROBUST_LOCK_DIR"
    );
    Err(Error::new(Code::Permission, message))
}
