//! From an object to a type, with the path of what does not fit and the fields nobody reads.

use serde::de::DeserializeOwned;

use super::{Object, Path, Segment};

/// An object as a type.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded<T> {
    /// The object.
    pub value: T,
    /// Fields that the type does not have, in the order of the text.
    pub unknown_fields: Vec<Path>,
}

/// Why an object is not of its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct DecodeError {
    /// What does not fit.
    pub path: Path,
    /// Why.
    pub message: String,
}

/// Read a JSON value as a type. Fields that the type does not have are of no interest.
///
/// # Errors
/// [`DecodeError`] with the path of the first value that does not fit.
pub fn decode_value<T: DeserializeOwned>(value: &serde_json::Value) -> Result<T, DecodeError> {
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let result: Result<T, serde_json::Error> = T::deserialize(deserializer);
    result.map_err(|error| DecodeError { path: tracked(&track.path()), message: error.to_string() })
}

/// Read an object as a type. An object without a name is an error.
///
/// # Errors
/// [`DecodeError`] with the path of the first value that does not fit.
pub fn decode<T: DeserializeOwned>(object: &Object) -> Result<Decoded<T>, DecodeError> {
    let mut unknown_fields = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(&object.value, &mut track);
    let result = serde_ignored::deserialize(deserializer, |path| unknown_fields.push(ignored(&path)));
    let value = match result {
        Ok(value) => value,
        Err(error) => {
            let error: serde_json::Error = error;
            return Err(DecodeError { path: tracked(&track.path()), message: error.to_string() });
        }
    };
    if object.name.is_empty() {
        let path = Path::of(&["metadata", "name"]);
        return Err(DecodeError { path, message: "an object needs a name".to_owned() });
    }
    // Types that leave out what every object has do not make it unknown.
    unknown_fields.retain(|path| !everywhere(path));
    Ok(Decoded { value, unknown_fields })
}

fn everywhere(path: &Path) -> bool {
    matches!(path.segments(), [Segment::Key(k)] if matches!(k.as_str(), "apiVersion" | "kind" | "status"))
}

fn tracked(path: &serde_path_to_error::Path) -> Path {
    use serde_path_to_error::Segment as S;
    path.iter()
        .filter_map(|s| match s {
            S::Seq { index } => Some(Segment::Index(*index)),
            S::Map { key } => Some(Segment::Key(key.clone())),
            S::Enum { variant } => Some(Segment::Key(variant.clone())),
            S::Unknown => None,
        })
        .collect()
}

fn ignored(path: &serde_ignored::Path<'_>) -> Path {
    use serde_ignored::Path as P;
    let mut segments = Vec::new();
    let mut at = path;
    loop {
        at = match at {
            P::Root => break,
            P::Seq { parent, index } => {
                segments.push(Segment::Index(*index));
                parent
            }
            P::Map { parent, key } => {
                segments.push(Segment::Key(key.clone()));
                parent
            }
            P::Some { parent } | P::NewtypeStruct { parent } | P::NewtypeVariant { parent } => parent,
        };
    }
    segments.into_iter().rev().collect()
}
