//! Reads the syntax of Java's `.properties` files, which Kafka's configuration uses, and keeps line numbers.
//!
//! The rules are those of `java.util.Properties.load`, with UTF-8 for the text. A value's trailing blanks are cut, as
//! Kafka cuts them from every value.

use thiserror::Error;

/// One `key=value` of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Property {
    /// The key, unescaped.
    pub(crate) key: String,
    /// The value, unescaped.
    pub(crate) value: String,
    /// The line, from 1, on which it begins.
    pub(crate) line: usize,
}

/// The text is not in the syntax.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("'{escape}' is no character: \\u takes four hexadecimal digits")]
pub(crate) struct SyntaxError {
    /// The line, from 1, on which the property begins.
    pub(crate) line: usize,
    escape: String,
}

/// Reads all properties in the order of the text; a key may stand more than once.
///
/// # Errors
/// [`SyntaxError`] for a malformed `\u` escape, the only thing that the syntax forbids.
pub(crate) fn read(text: &str) -> Result<Vec<Property>, SyntaxError> {
    let mut properties = Vec::new();
    for (line, logical) in logical_lines(text) {
        let (key, value) = split(&logical);
        let unescaped = |raw: &str| unescape(raw).map_err(|escape| SyntaxError { line, escape });
        let value = unescaped(value)?.trim_end().to_owned();
        properties.push(Property { key: unescaped(key)?, value, line });
    }
    Ok(properties)
}

/// A value as it must be written to be read back: backslashes doubled, line ends and leading blanks escaped.
pub(crate) fn escape_value(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for (at, c) in value.chars().enumerate() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            ' ' if at == 0 => escaped.push_str("\\ "),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// Lines without comments and blank ones, continued lines joined, each with the number of its first.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    for (at, natural) in text.split('\n').enumerate() {
        let content = natural.trim_start_matches([' ', '\t', '\x0c']);
        let comment = content.is_empty() || content.starts_with(['#', '!']);
        if open.is_none() && comment {
            continue;
        }
        let (number, mut line) = open.take().unwrap_or((at + 1, String::new()));
        let backslashes = content.len() - content.trim_end_matches('\\').len();
        if backslashes % 2 == 1 {
            line.push_str(content.strip_suffix('\\').unwrap_or(content));
            open = Some((number, line));
        } else {
            line.push_str(content);
            lines.push((number, line));
        }
    }
    lines.extend(open);
    lines
}

/// Splits at the first unescaped `=`, `:` or blank.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.char_indices().find(|(_, c)| {
        let ends = !escaped && matches!(c, '=' | ':' | ' ' | '\t' | '\x0c');
        escaped = !escaped && *c == '\\';
        ends
    });
    let (key, rest) = line.split_at(end.map_or(line.len(), |(at, _)| at));
    let rest = rest.trim_start_matches([' ', '\t', '\x0c']);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches([' ', '\t', '\x0c']))
}

fn unescape(raw: &str) -> Result<String, String> {
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => text.push('\t'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('f') => text.push('\x0c'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
                text.push(code.and_then(char::from_u32).ok_or_else(|| format!("\\u{digits}"))?);
            }
            Some(other) => text.push(other),
            None => {}
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String, usize)> {
        read(text).unwrap().into_iter().map(|p| (p.key, p.value, p.line)).collect()
    }

    fn one(key: &str, value: &str, line: usize) -> Vec<(String, String, usize)> {
        vec![(key.to_owned(), value.to_owned(), line)]
    }

    #[test]
    fn keys_end_at_equals_colon_or_blank() {
        assert_eq!(pairs("a=b"), one("a", "b", 1));
        assert_eq!(pairs("a : b=c"), one("a", "b=c", 1));
        assert_eq!(pairs("a   b"), one("a", "b", 1));
        assert_eq!(pairs("a"), one("a", "", 1));
        assert_eq!(pairs(r"a\=b=c"), one("a=b", "c", 1));
    }

    #[test]
    fn comments_and_blank_lines_are_skipped_and_lines_are_counted() {
        assert_eq!(pairs("# x=1\n\n  ! y=2\r\n  node.id = 7  \n"), one("node.id", "7", 4));
    }

    #[test]
    fn a_continued_line_is_one_property_with_the_number_of_its_first_line() {
        let text = "listeners=A://h:1,\\\n    B://h:2\nx=1\\\\\ny=2";
        let expected = [one("listeners", "A://h:1,B://h:2", 1), one("x", "1\\", 3), one("y", "2", 4)];
        assert_eq!(pairs(text), expected.concat());
    }

    #[test]
    fn a_comment_sign_inside_a_continuation_is_text() {
        assert_eq!(pairs("a=1\\\n# two"), one("a", "1# two", 1));
    }

    #[test]
    fn escapes_are_resolved_and_a_malformed_one_is_named() {
        assert_eq!(pairs(r"a=\u00e9\tb"), one("a", "é\tb", 1));
        let error = read("x=1\na=\\u00g").unwrap_err();
        assert_eq!(error.line, 2);
        assert!(error.to_string().contains("\\u00g"), "{error}");
    }

    #[test]
    fn an_escaped_value_reads_back() {
        for value in ["", " x", "a\\b", "two\nlines", "C:\\dir=é"] {
            assert_eq!(pairs(&format!("k={}", escape_value(value))), one("k", value, 1));
        }
    }
}
