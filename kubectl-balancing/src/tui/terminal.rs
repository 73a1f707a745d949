//! The terminal in the state that a full-screen program needs, and back: whatever happens.

use std::{
    io::{self, Write},
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use crossterm::{
    Command,
    cursor::{Hide, Show},
    event::{DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture},
    execute,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};

/// Is the terminal ours now? One process has one.
static ENTERED: AtomicBool = AtomicBool::new(false);
/// Has the user asked for the mouse?
static MOUSE: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

/// While it lives the terminal is in raw mode and on the alternate screen. Dropping it brings back what was before.
#[derive(Debug)]
pub struct Guard(());

impl Guard {
    /// Takes the terminal. A panic gives it back before it is reported.
    pub fn new() -> io::Result<Self> {
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                before(info);
            }));
        });
        let guard = Self(());
        enter()?;
        Ok(guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        restore();
    }
}

/// Takes the terminal (again, after [`restore`]).
pub fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    ENTERED.store(true, Ordering::SeqCst);
    execute!(io::stdout(), EnterAlternateScreen, EnableBracketedPaste, Hide)?;
    mouse(MOUSE.load(Ordering::SeqCst))
}

/// Takes the mouse, or leaves it to the terminal, whose own selection of text works then.
pub fn mouse(ours: bool) -> io::Result<()> {
    let was = MOUSE.swap(ours, Ordering::SeqCst);
    match (was, ours) {
        (_, true) => execute!(io::stdout(), EnableMouseCapture),
        (true, false) => execute!(io::stdout(), DisableMouseCapture),
        (false, false) => Ok(()),
    }
}

/// Gives the terminal back. Does nothing where that was done already.
pub fn restore() {
    if !ENTERED.swap(false, Ordering::SeqCst) {
        return;
    }
    let mut text = String::new();
    // Writing to a String does not fail.
    if MOUSE.load(Ordering::SeqCst) {
        let _ = DisableMouseCapture.write_ansi(&mut text);
    }
    let _ = DisableBracketedPaste.write_ansi(&mut text);
    let _ = LeaveAlternateScreen.write_ansi(&mut text);
    let _ = Show.write_ansi(&mut text);
    // Straight to the descriptor: a panic may have come while the stream of the standard library was in use. If the
    // terminal is gone, there is nothing left to bring back.
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match rustix::io::write(io::stdout(), rest) {
            Ok(written) => rest = &rest[written..],
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => break,
        }
    }
    let _ = disable_raw_mode();
}

/// Stops the job until the shell continues it, with the terminal as the shell left it meanwhile.
pub fn suspend() -> io::Result<()> {
    io::stdout().flush()?;
    restore();
    rustix::process::kill_current_process_group(rustix::process::Signal::TSTP)?;
    enter()
}
