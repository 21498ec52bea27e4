//! Forms: `a[b][0][c]=v` bodies and queries, decoded into a tree.

use super::errors::ApiError;

/// One decoded form: a value, or named children in the order in which they came.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Leaf(String),
    Branch(Vec<(String, Node)>),
}

/// How deep a parameter may nest; deeper is an attack, not a request.
const MAX_DEPTH: usize = 8;

/// Decodes `raw` (a body or a query string).
pub(super) fn decode(raw: &str) -> Result<Vec<(String, Node)>, ApiError> {
    let mut root = Vec::new();
    for (key, value) in pairs(raw)? {
        let path = split_key(&key)?;
        insert(&mut root, &path, value, &key)?;
    }
    Ok(root)
}

/// The decoded pairs, sorted: what idempotency compares.
pub(super) fn fingerprint(raw: &str) -> String {
    let mut pairs = pairs(raw).unwrap_or_default();
    pairs.sort();
    pairs.iter().map(|(key, value)| format!("{}:{key}={}:{value};", key.len(), value.len())).collect()
}

fn pairs(raw: &str) -> Result<Vec<(String, String)>, ApiError> {
    raw.split('&').filter(|pair| !pair.is_empty()).map(pair).collect()
}

fn pair(raw: &str) -> Result<(String, String), ApiError> {
    let (key, value) = raw.split_once('=').unwrap_or((raw, ""));
    Ok((percent_decode(key)?, percent_decode(value)?))
}

fn percent_decode(raw: &str) -> Result<String, ApiError> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => escaped(rest.next(), rest.next())
                .ok_or_else(|| ApiError::invalid("Invalid percent encoding"))?,
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| ApiError::invalid("Invalid UTF-8 in the request"))
}

fn escaped(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// `lines[0][amount]` is `lines`, `0`, `amount`; `types[]` is `types` and an empty name.
fn split_key(key: &str) -> Result<Vec<&str>, ApiError> {
    let Some(open) = key.find('[') else { return Ok(vec![key]) };
    let (name, nested) = key.split_at(open);
    let inner = nested.strip_prefix('[').and_then(|nested| nested.strip_suffix(']'));
    let inner = inner.ok_or_else(|| ApiError::unknown(&[key.to_owned()]))?;
    let path: Vec<&str> = std::iter::once(name).chain(inner.split("][")).collect();
    let broken = path.len() > MAX_DEPTH || path.iter().any(|part| part.contains(['[', ']']));
    if broken { Err(ApiError::unknown(&[key.to_owned()])) } else { Ok(path) }
}

fn insert(
    children: &mut Vec<(String, Node)>,
    path: &[&str],
    value: String,
    key: &str,
) -> Result<(), ApiError> {
    let [name, rest @ ..] = path else { return Ok(()) };
    if rest.is_empty() {
        // As at Stripe, the last of two equal names wins; the empty names of `a[]` are all kept.
        children.retain(|(known, _)| known.is_empty() || known != name);
        children.push(((*name).to_owned(), Node::Leaf(value)));
        return Ok(());
    }
    let position = children.iter().position(|(known, _)| !name.is_empty() && known == name);
    let position = position.unwrap_or_else(|| {
        children.push(((*name).to_owned(), Node::Branch(Vec::new())));
        children.len() - 1
    });
    match &mut children[position].1 {
        Node::Branch(nested) => insert(nested, rest, value, key),
        Node::Leaf(_) => Err(ApiError::invalid(format!("Invalid object: {key}")).param(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_names_become_a_tree() {
        let tree = decode("lines[0][amount]=5&lines[0][metadata][k]=a%26b&types[]=x&types[]=y").unwrap();
        let expected = format!("{tree:?}");
        assert!(expected.contains(r#"("metadata", Branch([("k", Leaf("a&b"))]))"#), "{expected}");
        assert!(expected.contains(r#"("types", Branch([("", Leaf("x")), ("", Leaf("y"))]))"#), "{expected}");
    }

    #[test]
    fn broken_names_and_bytes_are_refused() {
        for raw in ["a[b=1", "a[b]c=1", "a=%zz", "a=%ff", "a=1&a[b]=2"] {
            assert!(decode(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn the_order_of_parameters_does_not_make_another_request() {
        assert_eq!(fingerprint("a=1&b=2"), fingerprint("b=2&a=1"));
        assert_ne!(fingerprint("a=1&b=2"), fingerprint("a=1&b=3"));
    }
}
