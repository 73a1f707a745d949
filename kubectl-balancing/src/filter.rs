//! Which rows are shown: words, and typed expressions over the columns of the registry.
//!
//! ```text
//! filter = and { "or" and }        and = not { ["and"] not }        not = [ "not" | "!" ] term
//! term   = "(" filter ")" | field op value | "~" regex | word
//! op     = "=" "!=" "<" "<=" ">" ">=" "~" "!~"
//! ```
//! A word is looked for in every column. A value that is not known (the rate of a first sample) compares with nothing.

use std::cmp::Ordering;

use regex_lite::{Regex, RegexBuilder};

use crate::{
    columns::{Cell, Row, Shown},
    text::near,
};

/// A regular expression may not grow larger than this when it is compiled, in bytes.
const REGEX_MOST: usize = 1 << 20;
/// Parentheses and negations in one another, at the most.
const DEPTH_MOST: usize = 50;

/// A filter over the rows of a table. The default lets everything through.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    expression: Option<Expression>,
}

#[derive(Clone, Debug)]
enum Expression {
    Or(Vec<Expression>),
    And(Vec<Expression>),
    Not(Box<Expression>),
    /// Some cell contains it; lower case.
    Word(String),
    /// Some cell matches.
    Matches(Regex),
    Compare {
        /// Index in the registry.
        column: usize,
        op: Op,
        value: Value,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Like,
    NotLike,
}

#[derive(Clone, Debug)]
enum Value {
    Number(f64),
    Text(String),
    Regex(Regex),
}

/// The text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FilterError {
    message: String,
}

fn wrong<T>(message: impl Into<String>) -> Result<T, FilterError> {
    Err(FilterError { message: message.into() })
}

impl Filter {
    /// Reads a filter of rows of type `R`. An empty text lets everything through.
    pub fn parse<R: Row>(text: &str) -> Result<Self, FilterError> {
        let tokens = tokens(text)?;
        if tokens.is_empty() {
            return Ok(Self::default());
        }
        let fields = R::columns().iter().map(|c| Field {
            key: c.meta.key,
            header: c.meta.header,
            number: c.meta.number,
            has_value: c.meta.shown != Shown::Live,
        });
        let mut parser = Parser { tokens, at: 0, fields: fields.collect() };
        let expression = parser.or(0)?;
        match parser.peek() {
            None => Ok(Self { expression: Some(expression) }),
            Some(token) => wrong(format!("{} is not expected here", token.shown())),
        }
    }

    /// Does it let everything through?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.expression.is_none()
    }

    /// Does it let this row through? All columns count, also those not shown.
    #[must_use]
    pub fn matches<R: Row>(&self, row: &R) -> bool {
        self.expression.as_ref().is_none_or(|e| e.matches(row))
    }
}

impl Expression {
    fn matches<R: Row>(&self, row: &R) -> bool {
        let any = |test: &dyn Fn(&str) -> bool| R::columns().iter().any(|c| test(&(c.cell)(row).shown()));
        match self {
            Self::Or(all) => all.iter().any(|e| e.matches(row)),
            Self::And(all) => all.iter().all(|e| e.matches(row)),
            Self::Not(e) => !e.matches(row),
            Self::Word(word) => any(&|cell| cell.to_lowercase().contains(word)),
            Self::Matches(regex) => any(&|cell| regex.is_match(cell)),
            Self::Compare { column, op, value } => {
                R::columns().get(*column).is_some_and(|c| compare(&(c.cell)(row), *op, value))
            }
        }
    }
}

fn compare(cell: &Cell, op: Op, value: &Value) -> bool {
    let ordering = match value {
        Value::Regex(regex) => {
            let found = regex.is_match(&cell.shown()) || regex.is_match(&cell.raw());
            return found == (op == Op::Like);
        }
        Value::Number(wanted) => match cell.number() {
            Some(number) => number.total_cmp(wanted),
            None => return false,
        },
        // A cell is equal to what is shown of it and to what is printed for programs.
        Value::Text(wanted) => {
            let (shown, raw) = (cell.shown().to_lowercase(), cell.raw().to_lowercase());
            if shown == *wanted { Ordering::Equal } else { raw.as_str().cmp(wanted) }
        }
    };
    match op {
        Op::Equal | Op::Like => ordering.is_eq(),
        Op::NotEqual | Op::NotLike => ordering.is_ne(),
        Op::Less => ordering.is_lt(),
        Op::LessOrEqual => ordering.is_le(),
        Op::Greater => ordering.is_gt(),
        Op::GreaterOrEqual => ordering.is_ge(),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    Not,
    Op(Op),
    /// A word; `quoted` ones are never keywords or fields.
    Word {
        text: String,
        quoted: bool,
    },
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Self::Open => "(".to_owned(),
            Self::Close => ")".to_owned(),
            Self::Not => "!".to_owned(),
            Self::Op(op) => OPS.iter().find(|(_, o)| o == op).map_or("", |(text, _)| text).to_owned(),
            Self::Word { text, .. } => format!("{text:?}"),
        }
    }

    fn is_keyword(&self, word: &str) -> bool {
        matches!(self, Self::Word { text, quoted: false } if text.eq_ignore_ascii_case(word))
    }
}

/// Longer ones first.
const OPS: [(&str, Op); 8] = [
    ("!=", Op::NotEqual),
    ("!~", Op::NotLike),
    ("<=", Op::LessOrEqual),
    (">=", Op::GreaterOrEqual),
    ("=", Op::Equal),
    ("<", Op::Less),
    (">", Op::Greater),
    ("~", Op::Like),
];

fn tokens(text: &str) -> Result<Vec<Token>, FilterError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(c) = rest.chars().next() {
        let op = OPS.iter().find(|(text, _)| rest.starts_with(text));
        // At the beginning of a term, `!~x` and `!x` are negations.
        let begins = !matches!(tokens.last(), Some(Token::Word { .. }));
        rest = match (c, op) {
            ('(', _) => {
                tokens.push(Token::Open);
                &rest[1..]
            }
            (')', _) => {
                tokens.push(Token::Close);
                &rest[1..]
            }
            ('!', _) if begins || op.is_none() || is_new_term(text, rest) => {
                tokens.push(Token::Not);
                &rest[1..]
            }
            (_, Some((text, op))) => {
                tokens.push(Token::Op(*op));
                let after = &rest[text.len()..];
                // What follows ~ is a regular expression up to the next blank, whatever is in it.
                if matches!(op, Op::Like | Op::NotLike) {
                    let after = after.trim_start();
                    let (word, quoted, rest) = word(after, char::is_whitespace)?;
                    tokens.push(Token::Word { text: word, quoted });
                    rest
                } else {
                    after
                }
            }
            _ => {
                let (word, quoted, rest) = word(rest, |c| c.is_whitespace() || "()=<>~".contains(c))?;
                // In `state!=x` the mark belongs to the operator.
                match word.strip_suffix('!') {
                    Some(word) if !quoted && rest.starts_with(['=', '~']) && !word.is_empty() => {
                        tokens.push(Token::Word { text: word.to_owned(), quoted });
                        tokens.push(Token::Op(if rest.starts_with('=') {
                            Op::NotEqual
                        } else {
                            Op::NotLike
                        }));
                        &rest[1..]
                    }
                    _ => {
                        tokens.push(Token::Word { text: word, quoted });
                        rest
                    }
                }
            }
        }
        .trim_start();
    }
    Ok(tokens)
}

/// Does the rest begin after a blank and go on without one, as `!x` in `a !x`? `a != x` does not.
fn is_new_term(text: &str, rest: &str) -> bool {
    let blank_before = text[..text.len() - rest.len()].ends_with(char::is_whitespace);
    let goes_on = rest[1..].chars().next().is_some_and(|c| !c.is_whitespace() && c != '=');
    blank_before && goes_on
}

/// A word up to where it ends, or what is in quotes: (word, was it quoted, rest).
fn word(text: &str, ends: impl Fn(char) -> bool) -> Result<(String, bool, &str), FilterError> {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote) {
            return match inner.find(quote) {
                Some(end) => Ok((inner[..end].to_owned(), true, &inner[end + 1..])),
                None => wrong(format!("a {quote} is missing at the end")),
            };
        }
    }
    let end = text.find(ends).unwrap_or(text.len());
    Ok((text[..end].to_owned(), false, &text[end..]))
}

struct Field {
    key: &'static str,
    header: &'static str,
    number: bool,
    /// The terminal UI puts the values of the others in.
    has_value: bool,
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    fields: Vec<Field>,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn take(&mut self) -> Option<Token> {
        self.at += 1;
        self.tokens.get(self.at - 1).cloned()
    }

    fn took(&mut self, is: impl Fn(&Token) -> bool) -> bool {
        let there = self.peek().is_some_and(is);
        self.at += usize::from(there);
        there
    }

    fn or(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut all = vec![self.and(depth)?];
        while self.took(|t| t.is_keyword("or")) {
            all.push(self.and(depth)?);
        }
        Ok(one_or(all, Expression::Or))
    }

    fn and(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut all = vec![self.not(depth)?];
        loop {
            let said = self.took(|t| t.is_keyword("and"));
            match self.peek() {
                None | Some(Token::Close) if !said => break,
                Some(token) if !said && token.is_keyword("or") => break,
                _ => all.push(self.not(depth)?),
            }
        }
        Ok(one_or(all, Expression::And))
    }

    fn not(&mut self, depth: usize) -> Result<Expression, FilterError> {
        if depth > DEPTH_MOST {
            return wrong("too many parentheses or negations in one another");
        }
        if self.took(|t| *t == Token::Not || t.is_keyword("not")) {
            return Ok(Expression::Not(Box::new(self.not(depth + 1)?)));
        }
        self.term(depth)
    }

    fn term(&mut self, depth: usize) -> Result<Expression, FilterError> {
        match self.take() {
            Some(Token::Open) => {
                let inner = self.or(depth + 1)?;
                if !self.took(|t| *t == Token::Close) {
                    return wrong("a ) is missing");
                }
                Ok(inner)
            }
            Some(Token::Op(Op::Like)) => match self.take() {
                Some(Token::Word { text, .. }) => Ok(Expression::Matches(regex(&text)?)),
                _ => wrong("a regular expression is missing behind ~"),
            },
            Some(Token::Word { text, quoted }) => match self.peek().cloned() {
                Some(Token::Op(op)) if !quoted => {
                    self.at += 1;
                    self.comparison(&text, op)
                }
                _ => Ok(Expression::Word(text.to_lowercase())),
            },
            Some(token) => wrong(format!("{} is not expected here", token.shown())),
            None => wrong("something is missing at the end"),
        }
    }

    fn comparison(&mut self, name: &str, op: Op) -> Result<Expression, FilterError> {
        let is = |f: &Field| {
            f.has_value && (f.key.eq_ignore_ascii_case(name) || f.header.eq_ignore_ascii_case(name))
        };
        let Some(column) = self.fields.iter().position(is) else {
            let known: Vec<&str> = self.fields.iter().filter(|f| f.has_value).map(|f| f.key).collect();
            // What is meant most likely comes first: a line of the screen has no room for all.
            let meant = match near(name, known.iter().copied()).as_slice() {
                [] => String::new(),
                near => format!("did you mean {}? ", near.join(", ")),
            };
            return wrong(format!(
                "there is no field {name:?}; {meant}fields are: {} (to look for text with an operator in it, quote it)",
                known.join(", ")
            ));
        };
        let Some(Token::Word { text, .. }) = self.take() else {
            return wrong(format!("a value is missing behind {name}"));
        };
        let value = match op {
            Op::Like | Op::NotLike => Value::Regex(regex(&text)?),
            _ if self.fields[column].number && !text.contains('/') => match number(&text) {
                Some(number) => Value::Number(number),
                None => return wrong(format!("{name} is a number, {text:?} is none")),
            },
            _ => Value::Text(text.to_lowercase()),
        };
        Ok(Expression::Compare { column, op, value })
    }
}

fn one_or(mut all: Vec<Expression>, join: fn(Vec<Expression>) -> Expression) -> Expression {
    match all.len() {
        1 => all.remove(0),
        _ => join(all),
    }
}

fn regex(text: &str) -> Result<Regex, FilterError> {
    let built = RegexBuilder::new(text).case_insensitive(true).size_limit(REGEX_MOST).build();
    built.or_else(|e| wrong(format!("{text:?} is no regular expression: {e}")))
}

/// `5`, `1.5k`, `2M`, `80%`.
fn number(text: &str) -> Option<f64> {
    let (digits, factor) = match text.chars().last()? {
        'k' | 'K' => (&text[..text.len() - 1], 1e3),
        'm' | 'M' => (&text[..text.len() - 1], 1e6),
        'g' | 'G' => (&text[..text.len() - 1], 1e9),
        '%' => (&text[..text.len() - 1], 0.01),
        _ => (text, 1.0),
    };
    digits.parse().ok().filter(|n: &f64| n.is_finite()).map(|n: f64| n * factor)
}

#[cfg(test)]
mod tests {
    use balancing_api::cli::{BackendTopItem, PolicyTopItem};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        fixture::world,
        sample::{Board, NodeSample, Sample},
    };

    fn board() -> Board {
        let sample = |w: crate::fixture::World| {
            Sample::of_one(NodeSample { status: w.status, frontends: w.programmed, counters: w.counters })
        };
        Board::new(sample(world().later(1000)), Some(&sample(world())))
    }

    fn shown(filter: &str) -> Vec<String> {
        let filter = Filter::parse::<PolicyTopItem>(filter).unwrap_or_else(|e| panic!("{filter}: {e}"));
        let mut names: Vec<String> =
            board().policies.iter().filter(|r| filter.matches(*r)).map(|r| r.policy.name.clone()).collect();
        names.sort();
        names
    }

    #[test]
    fn words_and_their_negation() {
        assert_eq!(shown("").len(), 8);
        assert_eq!(shown("DNS"), ["node-local-dns", "shadow-dns"]);
        assert_eq!(shown("dns !shadow"), ["node-local-dns"]);
        assert_eq!(shown("dns and not conflicted"), ["node-local-dns"]);
        assert_eq!(shown("edge or zoned"), ["edge-proxy", "zoned"]);
        assert_eq!(shown("!(edge or zoned or dns) lr !cache"), ["lost", "typo"]);
        assert_eq!(shown("\"edge or\""), [] as [&str; 0]);
    }

    #[test]
    fn comparisons() {
        assert_eq!(shown("qosDrops>0"), ["node-local-dns"]);
        assert_eq!(shown("QOS-DROPS/s >= 37"), ["node-local-dns"]);
        assert_eq!(shown("fallbacks > 0 and redirects < 1"), ["apiserver-cache", "log-cache"]);
        assert_eq!(shown("redirectsTotal > 1k"), ["log-cache", "node-local-dns"]);
        assert_eq!(shown("kind=bl"), ["edge-proxy"]);
        assert_eq!(shown("kind != lr"), ["edge-proxy"]);
        assert_eq!(shown("kind!=lr or name=typo"), ["edge-proxy", "typo"]);
        assert_eq!(shown("state=fallback"), ["apiserver-cache", "log-cache"]);
        assert_eq!(
            shown("not state=programmed not state~^fall not kind=bl"),
            ["lost", "shadow-dns", "typo", "zoned"]
        );
        assert_eq!(shown("backends=2/2"), ["edge-proxy"]);
        assert_eq!(shown("name!~dns|cache kind=lr"), ["lost", "typo", "zoned"]);
    }

    #[test]
    fn regular_expressions() {
        assert_eq!(shown("~^(lost|typo)$"), ["lost", "typo"]);
        assert_eq!(shown("!~dns !~cache !~lr"), ["edge-proxy"]);
        assert_eq!(shown("name~'^edge'"), ["edge-proxy"]);
    }

    #[test]
    fn what_is_not_known_compares_with_nothing() {
        let sample = |w: crate::fixture::World| {
            Sample::of_one(NodeSample { status: w.status, frontends: w.programmed, counters: w.counters })
        };
        let first = Board::new(sample(world()), None);
        for filter in ["redirects>=0", "redirects<1", "redirects!=5"] {
            let filter = Filter::parse::<PolicyTopItem>(filter).unwrap();
            assert!(!first.policies.iter().any(|r| filter.matches(r)));
        }
        let share = Filter::parse::<BackendTopItem>("share > 50% owner~edge").unwrap();
        assert_eq!(first.backends.iter().filter(|r| share.matches(*r)).count(), 1);
    }

    #[test]
    fn mistakes_are_told() {
        let error = |text: &str| Filter::parse::<PolicyTopItem>(text).unwrap_err().to_string();
        assert!(error("fail>0").starts_with("there is no field \"fail\"; fields are: state, name, kind"));
        assert!(error("qosDrop>0").starts_with("there is no field \"qosDrop\"; did you mean qosDrops"));
        assert!(error("trend>0").starts_with("there is no field \"trend\""));
        assert_eq!(error("qosDrops>lots"), "qosDrops is a number, \"lots\" is none");
        assert_eq!(error("qosDrops>"), "a value is missing behind qosDrops");
        assert_eq!(error("(dns"), "a ) is missing");
        assert_eq!(error("dns)"), ") is not expected here");
        assert_eq!(error("dns or"), "something is missing at the end");
        assert_eq!(error("\"dns"), "a \" is missing at the end");
        assert!(error("~[").contains("is no regular expression"));
        assert!(error(&"!".repeat(500)).contains("too many"));
        assert!(error(&"(".repeat(500)).contains("too many"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z!~()=<>\"' %/.0-9|*é]{0,60}") {
            if let Ok(filter) = Filter::parse::<PolicyTopItem>(&text) {
                let _ = board().policies.iter().filter(|r| filter.matches(*r)).count();
            }
        }
    }
}
