//! Dying with the parent: children of `quorate dev` ask the kernel to be killed when it ends, however it ends.

use std::io;

use thiserror::Error;

/// The process cannot promise to die with its parent.
#[derive(Debug, Error)]
pub(crate) enum ParentError {
    /// The parent ended before the promise was made.
    #[error("the parent process {0} has already ended")]
    Gone(u32),
    /// The system refused.
    #[error("cannot tie this process to its parent: {0}")]
    System(#[source] io::Error),
}

/// Makes the kernel kill this process when the thread that started it ends. The setting survives `exec`.
///
/// # Errors
/// [`ParentError::Gone`] if `parent` is not the parent any more: it ended between the start of this process and the
/// request, and nobody would send the signal.
pub(crate) fn die_with(parent: u32) -> Result<(), ParentError> {
    ask_kernel().map_err(ParentError::System)?;
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if now.is_some_and(|pid| u32::try_from(pid) == Ok(parent)) {
        Ok(())
    } else {
        Err(ParentError::Gone(parent))
    }
}

#[cfg(target_os = "linux")]
fn ask_kernel() -> io::Result<()> {
    // KILL and not TERM: whoever killed the parent wants it all gone, and the data folder survives it by design.
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

/// Other systems have no such signal: a thread looks.
#[cfg(not(target_os = "linux"))]
fn ask_kernel() -> io::Result<()> {
    let parent = rustix::process::getppid();
    let watch = move || {
        while rustix::process::getppid() == parent {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        std::process::exit(1);
    };
    std::thread::Builder::new().name("parent".to_owned()).spawn(watch).map(drop)
}
