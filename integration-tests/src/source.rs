//! Finds the paths in a Rust source: a scanner that is sufficient to check the direction of dependencies.
//!
//! It handles comments, literals and `use` trees, and skips items under `#[cfg(test)]`, because tests may depend on
//! anything. It does not handle the grammars of macros; a path inside a macro call is read like any other.

/// A path as the source writes it: `["crate", "domain", "Ticket"]`. A glob ends in `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    pub line: usize,
    pub path: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Word(String),
    /// `::`
    Separator,
    Sign(char),
}

#[derive(Debug, Clone)]
struct Token {
    line: usize,
    kind: Kind,
}

/// Returns all paths with two or more segments, and all paths in `use` items.
pub fn mentions(source: &str) -> Vec<Mention> {
    let tokens = without_tests(tokens(source));
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let starts_path = at == 0 || tokens[at - 1].kind != Kind::Separator;
        match &tokens[at].kind {
            Kind::Word(word) if word == "use" => at = use_tree(&tokens, at + 1, &[], &mut found),
            Kind::Word(_) if starts_path => at = plain_path(&tokens, at, &mut found),
            _ => at += 1,
        }
    }
    found
}

/// Returns whether the source uses this word outside of comments, literals and tests.
pub fn has_word(source: &str, word: &str) -> bool {
    without_tests(tokens(source)).iter().any(|token| token.kind == Kind::Word(word.to_owned()))
}

fn plain_path(tokens: &[Token], mut at: usize, found: &mut Vec<Mention>) -> usize {
    let line = tokens[at].line;
    let mut path = Vec::new();
    while let Some(Kind::Word(word)) = kind(tokens, at) {
        path.push(word.clone());
        at += 1;
        if kind(tokens, at) != Some(&Kind::Separator) || !matches!(kind(tokens, at + 1), Some(Kind::Word(_))) {
            break;
        }
        at += 1;
    }
    if path.len() > 1 {
        found.push(Mention { line, path });
    }
    at
}

/// Reads one tree after `use`, `{` or `,`, and returns its end.
fn use_tree(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Mention>) -> usize {
    let mut path = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    loop {
        match kind(tokens, at) {
            Some(Kind::Word(word)) if word == "as" => at += 2,
            Some(Kind::Word(word)) => {
                path.push(word.clone());
                at += 1;
            }
            Some(Kind::Separator) => at += 1,
            Some(Kind::Sign('*')) => {
                path.push("*".to_owned());
                at += 1;
            }
            Some(Kind::Sign('{')) => {
                at += 1;
                while !matches!(kind(tokens, at), None | Some(Kind::Sign('}'))) {
                    let before = at;
                    at = use_tree(tokens, at, &path, found);
                    // Also skips a token that is not part of a tree, as in a macro's `use {$($tree)*}`.
                    if at == before || kind(tokens, at) == Some(&Kind::Sign(',')) {
                        at += 1;
                    }
                }
                return at + 1;
            }
            _ => break,
        }
    }
    if path.len() > prefix.len() {
        // `{self}` refers to the path before the braces.
        if !prefix.is_empty() && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        found.push(Mention { line, path });
    }
    at
}

fn kind(tokens: &[Token], at: usize) -> Option<&Kind> {
    tokens.get(at).map(|token| &token.kind)
}

/// Removes each item under `#[cfg(test)]`, up to its closing brace or semicolon.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let is_mark = |at: usize| {
        mark.iter().enumerate().all(|(offset, expected)| match kind(&tokens, at + offset) {
            Some(Kind::Word(word)) => word == expected,
            Some(Kind::Sign(sign)) => expected.chars().eq([*sign]),
            _ => false,
        })
    };
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if is_mark(at) {
            at = end_of_item(&tokens, at + mark.len());
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

fn end_of_item(tokens: &[Token], mut at: usize) -> usize {
    let mut depth = 0usize;
    while at < tokens.len() {
        match tokens[at].kind {
            Kind::Sign('{') => depth += 1,
            Kind::Sign('}') if depth <= 1 => return at + 1,
            Kind::Sign('}') => depth -= 1,
            Kind::Sign(';') if depth == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}

fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let rest = &chars[at..];
        let length = match rest {
            ['/', '/', ..] => rest.iter().position(|sign| *sign == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => block_comment(rest),
            ['"', ..] => quoted(rest),
            ['\'', '\\', ..] | ['\'', _, '\'', ..] => character(rest),
            // `r#type` is the word `type`.
            ['r', '#', first, ..] if first.is_alphabetic() => 2,
            ['r', '"', ..] | ['r', '#', '"', ..] | ['r', '#', '#', ..] => raw_string(rest),
            [':', ':', ..] => {
                tokens.push(Token { line, kind: Kind::Separator });
                2
            }
            [first, ..] if first.is_alphabetic() || *first == '_' => {
                let length = rest.iter().position(|sign| !sign.is_alphanumeric() && *sign != '_').unwrap_or(rest.len());
                let word = rest[..length].iter().collect::<String>();
                tokens.push(Token { line, kind: Kind::Word(word) });
                length
            }
            [first, ..] => {
                if !first.is_whitespace() {
                    tokens.push(Token { line, kind: Kind::Sign(*first) });
                }
                1
            }
            [] => 1,
        };
        line += rest[..length.min(rest.len())].iter().filter(|sign| **sign == '\n').count();
        at += length;
    }
    tokens
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] if depth == 1 => return at + 2,
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

fn quoted(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

fn character(rest: &[char]) -> usize {
    // An escaped quote is never the end, so the search starts after the escaped character.
    let from = if rest[1] == '\\' { 3 } else { 2 };
    rest.iter().skip(from).position(|sign| *sign == '\'').map_or(rest.len(), |found| from + found + 1)
}

fn raw_string(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|sign| **sign == '#').count();
    let mut end = vec!['"'];
    end.extend(std::iter::repeat_n('#', hashes));
    let from = hashes + 2;
    let found = rest.get(from..).and_then(|inside| inside.windows(end.len()).position(|window| window == end));
    found.map_or(rest.len(), |found| from + found + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(source: &str) -> Vec<String> {
        mentions(source).into_iter().map(|mention| mention.path.join("::")).collect()
    }

    #[test]
    fn use_trees_are_unfolded() {
        let source = "use a::{b, c::{self, D as E}, f::*};\npub(crate) use g;\nuse super::h::i;";
        assert_eq!(paths(source), ["a::b", "a::c", "a::c::D", "a::f::*", "g", "super::h::i"]);
    }

    #[test]
    fn paths_in_code_are_found_with_their_lines() {
        let source = "fn a() -> crate::b::C<d::E> {\n    f::g::<h::I>();\n    j::k!(x)\n}";
        assert_eq!(paths(source), ["crate::b::C", "d::E", "f::g", "h::I", "j::k"]);
        assert_eq!(mentions(source)[2].line, 2);
    }

    #[test]
    fn comments_literals_and_tests_are_left_out() {
        let source = r##"//! See a::b.
            /* c::d /* e::f */ g::h */
            const S: &str = "i::j \" k::l";
            const R: &str = r#"m::n " o::p"#;
            const C: char = '"';
            fn life<'a>(x: &'a str) -> q::R { x }
            #[cfg(test)]
            mod tests { use s::t; fn u() { v::w(); } }
            #[cfg(test)]
            mod more;
            use x::r#type;"##;
        assert_eq!(paths(source), ["q::R", "x::type"]);
    }

    #[test]
    fn invalid_use_trees_are_skipped() {
        let source = "macro_rules! m { ($a:tt) => { use {$a, b::{c, $d}}; }; } fn e() -> impl F + use<'_, G> {} use";
        assert_eq!(paths(source), ["a", "b::c", "b::d"]);
    }

    #[test]
    fn words_are_seen_only_in_code() {
        assert!(has_word("pub async fn a() {}", "async"));
        assert!(!has_word("// async\nfn a() { \"async\"; }", "async"));
    }
}
