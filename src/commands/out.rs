//! Out: what a command says on standard output, also to a reader who has heard enough.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

/// Prints a line, as `println!` does. Where nobody reads any more (`| head`) the program ends there, and that is no error.
macro_rules! say {
    ($($text:tt)*) => { $crate::commands::out::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// Prints a line.
pub(super) fn line(text: Arguments<'_>) {
    end_unless(write(&mut io::stdout().lock(), text));
}

/// Prints a text as it is, with the lines that it has; ends as [`line`] does.
pub(super) fn write_or_end(text: &str) {
    end_unless(heard(io::stdout().lock().write_all(text.as_bytes())));
}

fn end_unless(written: io::Result<bool>) {
    match written {
        Ok(true) => {}
        // Whatever is under way goes on at the next start, as after a crash.
        Ok(false) => std::process::exit(0),
        Err(error) => {
            tracing::error!("Standard output cannot be written: {error}");
            std::process::exit(2)
        }
    }
}

/// False where nobody reads any more.
fn write(out: &mut impl Write, text: Arguments<'_>) -> io::Result<bool> {
    heard(writeln!(out, "{text}"))
}

fn heard(written: io::Result<()>) -> io::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_has_left_is_no_error() {
        let (reader, mut writer) = io::pipe().unwrap();
        assert!(write(&mut writer, format_args!("one")).unwrap());
        drop(reader);
        assert!(!write(&mut writer, format_args!("two")).unwrap());
    }
}
