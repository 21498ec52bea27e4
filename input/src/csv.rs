//! CSV: the rows of a CSV file with the lines on which they stand, read from pieces of any size in constant memory; and
//! rows to write, of which no spreadsheet makes formulas.

use std::fmt;

/// The longest row. A quote that is never closed makes one row of the rest of the file, and must not fill the memory.
pub const LONGEST_ROW: usize = 1024 * 1024;
/// More columns than any table has.
pub const MOST_COLUMNS: usize = 1_000;

/// One row. Line breaks inside quotes belong to it.
#[derive(Debug, Default)]
pub struct Row {
    /// On which it begins, from 1.
    pub line: u64,
    text: String,
    ends: Vec<usize>,
    fault: Option<&'static str>,
}

impl Row {
    /// How many fields it has.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it has no field; no row that is handed out is so.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// A field without the blanks around it; empty where the row has no such field or cannot be read.
    pub fn get(&self, place: usize) -> &str {
        let Some(end) = self.ends.get(place) else { return "" };
        let start = place.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.text.get(start..*end).unwrap_or("").trim()
    }

    /// Every field.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|place| self.get(place))
    }

    /// Why this row cannot be read, where it cannot.
    pub fn fault(&self) -> Option<&'static str> {
        self.fault
    }
}

/// Why the rest of a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Where it began to go wrong.
    pub line: u64,
    /// For people.
    pub detail: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.detail)
    }
}

impl std::error::Error for Unreadable {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of a byte order mark have been seen.
    Mark(usize),
    RowStart,
    FieldStart,
    Plain,
    Quoted,
    /// A quote inside a quoted field: its end, or the first half of a doubled one.
    Quote,
}

const MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a file that is fed to it piece by piece. Commas separate fields, LF, CRLF and CR end rows, a byte order mark is
/// passed over, and so are empty lines.
#[derive(Debug)]
pub struct Reader {
    state: State,
    line: u64,
    after_cr: bool,
    /// Where the quote that is open was opened.
    quote_line: u64,
    bytes: Vec<u8>,
    row: Row,
}

impl Default for Reader {
    fn default() -> Reader {
        let (bytes, row) = (Vec::new(), Row::default());
        Reader { state: State::Mark(0), line: 1, after_cr: false, quote_line: 1, bytes, row }
    }
}

impl Reader {
    /// Takes the next piece, and hands on each row that ends in it.
    ///
    /// # Errors
    /// Whatever `take` says, or that the file cannot be read any further.
    pub fn feed<E: From<Unreadable>>(
        &mut self,
        piece: &[u8],
        take: &mut dyn FnMut(&Row) -> Result<(), E>,
    ) -> Result<(), E> {
        for &byte in piece {
            let ended = self.step(byte);
            self.count_line(byte);
            if ended {
                self.hand_on(take)?;
            } else if self.bytes.len() > LONGEST_ROW || self.row.ends.len() > MOST_COLUMNS {
                return Err(self.too_long().into());
            }
        }
        Ok(())
    }

    /// The file is over: hands on the last row, where no line break ended it.
    ///
    /// # Errors
    /// As for [`Reader::feed`]; a quote that is still open.
    pub fn end<E: From<Unreadable>>(&mut self, take: &mut dyn FnMut(&Row) -> Result<(), E>) -> Result<(), E> {
        match self.state {
            State::Quoted => {
                let detail = "a quote is opened here and never closed".to_owned();
                Err(Unreadable { line: self.quote_line, detail }.into())
            }
            State::Mark(0) | State::Mark(3) | State::RowStart => Ok(()),
            State::Mark(seen) => {
                self.bytes.extend_from_slice(&MARK[..seen]);
                self.end_field();
                self.hand_on(take)
            }
            State::FieldStart | State::Plain | State::Quote => {
                self.end_field();
                self.hand_on(take)
            }
        }
    }

    /// True where this byte ends a row.
    fn step(&mut self, byte: u8) -> bool {
        match (self.state, byte) {
            (State::Mark(seen), _) if MARK.get(seen) == Some(&byte) => self.state = State::Mark(seen + 1),
            (State::Mark(seen), _) => {
                self.state = if matches!(seen, 0 | 3) { State::RowStart } else { State::Plain };
                self.row.line = self.line;
                if seen < 3 {
                    self.bytes.extend_from_slice(&MARK[..seen]);
                }
                return self.step(byte);
            }
            // The second half of CRLF, and lines with nothing on them.
            (State::RowStart, b'\n' | b'\r') => {}
            (State::RowStart, _) => {
                self.row.line = self.line;
                self.state = State::FieldStart;
                return self.step(byte);
            }
            (State::Quoted, b'"') => self.state = State::Quote,
            (State::Quoted, _) => self.bytes.push(byte),
            (State::Quote, b'"') => {
                self.bytes.push(byte);
                self.state = State::Quoted;
            }
            (State::FieldStart, b'"') => {
                self.quote_line = self.line;
                self.state = State::Quoted;
            }
            (_, b',') => {
                self.end_field();
                self.state = State::FieldStart;
            }
            (_, b'\n' | b'\r') => {
                self.end_field();
                self.state = State::RowStart;
                return true;
            }
            (State::Quote, _) => {
                // Blanks behind a quote are an accident, anything else a quote that was not doubled.
                if byte != b' ' && byte != b'\t' {
                    self.row.fault =
                        Some("has text behind a closing quote; a quote inside quotes is doubled");
                }
            }
            (State::FieldStart | State::Plain, _) => {
                self.bytes.push(byte);
                self.state = State::Plain;
            }
        }
        false
    }

    fn count_line(&mut self, byte: u8) {
        if byte == b'\r' || (byte == b'\n' && !self.after_cr) {
            self.line += 1;
        }
        self.after_cr = byte == b'\r';
    }

    fn end_field(&mut self) {
        self.row.ends.push(self.bytes.len());
    }

    fn hand_on<E>(&mut self, take: &mut dyn FnMut(&Row) -> Result<(), E>) -> Result<(), E> {
        self.row.text = match String::from_utf8(std::mem::take(&mut self.bytes)) {
            Ok(text) => text,
            Err(_) => {
                self.row.fault = Some("is not UTF-8; save the file as UTF-8, not as Latin-1 or UTF-16");
                String::new()
            }
        };
        if self.row.text.contains('\0') {
            self.row.fault = Some("holds U+0000; a file in UTF-16 looks so, save it as UTF-8");
        }
        let taken = take(&self.row);
        // The room is used again.
        self.bytes = std::mem::take(&mut self.row.text).into_bytes();
        self.bytes.clear();
        self.row.ends.clear();
        self.row.fault = None;
        taken
    }

    fn too_long(&self) -> Unreadable {
        if self.row.ends.len() > MOST_COLUMNS {
            let detail = format!("has more than {MOST_COLUMNS} columns");
            return Unreadable { line: self.row.line, detail };
        }
        let quote = match self.state {
            State::Quoted => {
                format!("; a quote is opened on line {} and may never be closed", self.quote_line)
            }
            _ => String::new(),
        };
        Unreadable { line: self.row.line, detail: format!("is longer than {LONGEST_ROW} bytes{quote}") }
    }
}

/// What a spreadsheet takes for the begin of a formula, also in the wide form of some keyboards.
const SIGNS: &[char] = &['=', '+', '-', '@', '＝', '＋', '－', '＠'];
/// What ends a cell in one spreadsheet or another.
const PARTS: &[char] = &[';', '\t', '\r', '\n'];

/// Adds a field of the row that is being written. A text that a spreadsheet would calculate gets an apostrophe before it; one
/// that is a plain number stays one.
pub fn write_text(out: &mut String, text: &str) {
    let begins = text.starts_with(SIGNS) || text.starts_with(['\t', '\r', '\n']);
    let calculates = begins && !is_number(text);
    let quoted = calculates || text.contains([',', '"', '\r', '\n', ';', '\t']) || text.trim() != text;
    if quoted {
        out.push('"');
    }
    if calculates {
        out.push('\'');
    }
    if quoted {
        let mut before = None;
        for character in text.chars() {
            // Where `;` or a tab parts cells, quotes in the middle of a line hold nothing together.
            if before.is_some_and(|before| PARTS.contains(&before)) && SIGNS.contains(&character) {
                out.push('\'');
            }
            out.push(character);
            if character == '"' {
                out.push('"');
            }
            before = Some(character);
        }
        *out += "\",";
    } else {
        *out += text;
        out.push(',');
    }
}

/// Adds a number of ours, as it is.
pub fn write_number(out: &mut String, number: &str) {
    *out += number;
    out.push(',');
}

/// Ends the row.
pub fn end_row(out: &mut String) {
    if out.ends_with(',') {
        out.pop();
    }
    *out += "\r\n";
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    [whole, fraction].iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_a_formula_and_numbers_stay_numbers() {
        let written = |text: &str| {
            let mut out = String::new();
            write_text(&mut out, text);
            end_row(&mut out);
            out
        };
        for text in ["=1+1", "+1+cmd", "-1-1", "@SUM(A1)", "\tA1", "＝1", "-", "+49 30 1", "-1.", "=\"a\""] {
            let expected = format!("\"'{}\"\r\n", text.replace('"', "\"\""));
            assert_eq!(written(text), expected);
        }
        for (text, expected) in
            [("a;=1+1;b", "a;'=1+1;b"), ("a\n-1", "a\n'-1"), ("\t=1", "'\t'=1"), (";@A1", ";'@A1")]
        {
            assert_eq!(written(text), format!("\"{expected}\"\r\n"));
        }
        for text in ["Ada", "-5", "+12.50", "", "ünï", "ot_cus_1", "a=b"] {
            assert_eq!(written(text), format!("{text}\r\n"));
        }
        for text in ["a,b", "a\"b", "a\nb", " a", "a;b"] {
            assert_eq!(written(text), format!("\"{}\"\r\n", text.replace('"', "\"\"")));
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut out = String::new();
        let fields = ["a,\"b\"", "two\r\nlines", "", "plain", "last;"];
        fields.iter().for_each(|field| write_text(&mut out, field));
        end_row(&mut out);
        let (rows, error) = read_in(out.as_bytes(), 3);
        assert_eq!((rows, error), (vec![(1, fields.map(str::to_owned).to_vec(), false)], None));
    }

    type Read = Vec<(u64, Vec<String>, bool)>;

    fn read_in(text: &[u8], size: usize) -> (Read, Option<Unreadable>) {
        let mut rows = Vec::new();
        let mut take = |row: &Row| {
            rows.push((row.line, row.fields().map(str::to_owned).collect(), row.fault().is_some()));
            Ok::<(), Unreadable>(())
        };
        let mut reader = Reader::default();
        let fed = text.chunks(size).try_for_each(|piece| reader.feed(piece, &mut take));
        let ended = fed.and_then(|()| reader.end(&mut take));
        (rows, ended.err())
    }

    #[track_caller]
    fn reads(text: &[u8], expected: &[(u64, &[&str])]) {
        for size in [1, 2, 3, 7, 1_000] {
            let (rows, error) = read_in(text, size);
            let rows: Vec<(u64, Vec<&str>)> =
                rows.iter().map(|(line, row, _)| (*line, row.iter().map(String::as_str).collect())).collect();
            let expected: Vec<(u64, Vec<&str>)> =
                expected.iter().map(|(line, row)| (*line, row.to_vec())).collect();
            assert_eq!((rows, error), (expected, None), "in pieces of {size}");
        }
    }

    #[test]
    fn rows_know_their_lines_however_lines_end() {
        reads(b"a,b\nc,d\n", &[(1, &["a", "b"]), (2, &["c", "d"])]);
        reads(b"a,b\r\nc,d\re,f", &[(1, &["a", "b"]), (2, &["c", "d"]), (3, &["e", "f"])]);
        reads(b"\n\r\na\n\nb", &[(3, &["a"]), (5, &["b"])]);
        reads(b"\"a\r\nb\n\",c\nd,", &[(1, &["a\r\nb", "c"]), (4, &["d", ""])]);
    }

    #[test]
    fn a_byte_order_mark_is_passed_over_also_before_a_quote() {
        reads(b"\xef\xbb\xbfid,name\n", &[(1, &["id", "name"])]);
        reads(b"\xef\xbb\xbf\"id\",name\n", &[(1, &["id", "name"])]);
        reads(b"\xef\xbb\xbf", &[]);
        reads(b"", &[]);
    }

    #[test]
    fn quotes_hold_commas_breaks_and_doubled_quotes() {
        reads(b"\"a \"\"b\"\", c\" , d \"e\" ", &[(1, &["a \"b\", c", "d \"e\""])]);
        reads(b"\"\"\n,\n", &[(1, &[""]), (2, &["", ""])]);
    }

    #[test]
    fn what_is_no_text_is_the_fault_of_its_row_alone() {
        let (rows, error) = read_in(b"a\nM\xfcller\n\"b\"c\nd\0\ne", 4);
        let faults: Vec<_> = rows.iter().map(|(line, _, fault)| (*line, *fault)).collect();
        assert_eq!((faults, error), (vec![(1, false), (2, true), (3, true), (4, true), (5, false)], None));
    }

    #[test]
    fn a_quote_that_is_never_closed_is_named_by_its_line() {
        assert_eq!(read_in(b"a\nb,\"c\nd\n", 3).1.unwrap().line, 2);
        let endless = [b"a\n\"".to_vec(), vec![b'x'; LONGEST_ROW + 10]].concat();
        let error = read_in(&endless, 65_536).1.unwrap();
        assert!(error.line == 2 && error.detail.contains("quote"), "{error}");
        let wide = ",".repeat(1_000_000);
        assert!(read_in(wide.as_bytes(), 65_536).1.unwrap().detail.contains("columns"));
    }
}
