//! The errors of the core, by the codes under which programs know them.

use core::fmt;
use std::io;

/// Why an operation was refused. `as_str` gives the code that users match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Exhausted,
    AlreadyAllocated,
    NotAllocated,
    StaleHandle,
    NoSpace,
    Incompatible,
    Corrupt,
    Permission,
    PidNamespace,
    NotFound,
    Exists,
    NotTmpfs,
    NotRobust,
    NoProc,
    NoMemory,
    Forked,
    Stalled,
    OutOfRange,
}

impl Code {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "ERR_ROBUST_LOCK_EXHAUSTED",
            Self::AlreadyAllocated => "ERR_ROBUST_LOCK_ALREADY_ALLOCATED",
            Self::NotAllocated => "ERR_ROBUST_LOCK_NOT_ALLOCATED",
            Self::StaleHandle => "ERR_ROBUST_LOCK_STALE_HANDLE",
            Self::NoSpace => "ERR_ROBUST_LOCK_NO_SPACE",
            Self::Incompatible => "ERR_ROBUST_LOCK_INCOMPATIBLE",
            Self::Corrupt => "ERR_ROBUST_LOCK_CORRUPT",
            Self::Permission => "ERR_ROBUST_LOCK_PERMISSION",
            Self::PidNamespace => "ERR_ROBUST_LOCK_PID_NAMESPACE",
            Self::NotFound => "ERR_ROBUST_LOCK_NOT_FOUND",
            Self::Exists => "ERR_ROBUST_LOCK_EXISTS",
            Self::NotTmpfs => "ERR_ROBUST_LOCK_NOT_TMPFS",
            Self::NotRobust => "ERR_ROBUST_LOCK_NOT_ROBUST",
            Self::NoProc => "ERR_ROBUST_LOCK_NO_PROC",
            Self::NoMemory => "ERR_ROBUST_LOCK_NO_MEMORY",
            Self::Forked => "ERR_ROBUST_LOCK_FORKED",
            Self::Stalled => "ERR_ROBUST_LOCK_STALLED",
            Self::OutOfRange => "ERR_OUT_OF_RANGE",
        }
    }
}

/// A refusal: what is wrong and what to do about it.
#[derive(Clone, Debug)]
pub struct Error {
    pub code: Code,
    pub message: String,
    /// Where the system said no: errno, and the call it came from.
    pub os: Option<(i32, &'static str)>,
    /// With [`Code::Exhausted`]: how many locks can be allocated.
    pub capacity: Option<u32>,
    /// With [`Code::Exhausted`]: how many ids are free but held still.
    pub held: Option<u32>,
}

pub type Result<T> = core::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), os: None, capacity: None, held: None }
    }

    /// What a failed system call means for the user; `doing` completes "cannot …".
    pub(crate) fn from_os(error: &io::Error, syscall: &'static str, doing: &str) -> Self {
        let errno = error.raw_os_error().unwrap_or(0);
        let (code, advice) = match errno {
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => {
                (Code::NoSpace, "make room on that tmpfs, or mount it with a larger size")
            }
            libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EAGAIN => {
                (Code::NoMemory, "the process is at a limit (memory, address space or open files)")
            }
            libc::ENOENT | libc::ENOTDIR => (Code::NotFound, "check the path"),
            libc::ENAMETOOLONG => (Code::OutOfRange, "choose a shorter one"),
            libc::EEXIST => (Code::Exists, "open it without mode 'create'"),
            libc::EOPNOTSUPP | libc::EISDIR => (Code::NotTmpfs, "choose a folder on a tmpfs"),
            _ => (Code::Permission, "check who owns the path and what this process may do"),
        };
        let mut refusal = Self::new(code, format!("cannot {doing}: {error}; {advice}"));
        refusal.os = Some((errno, syscall));
        refusal
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl std::error::Error for Error {}
