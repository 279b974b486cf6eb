use std::fmt::Display;
use std::path::Path;

use serde_json::{Map, Value};

use super::ConfigError;

/// Sizes and counts end here, so that products of four of them fit in 128 bits.
const LARGEST: u64 = i32::MAX as u64;

/// Typed access to one JSON object of a configuration file.
///
/// A key whose value is `null` counts as absent. Every error names the file and the key.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
    /// Empty, or the name of the block with a final dot.
    prefix: String,
}

impl<'a> Fields<'a> {
    /// The object at the top level of the file `path`.
    #[must_use]
    pub fn new(map: &'a Map<String, Value>, path: &'a Path) -> Self {
        Self { map, path, prefix: String::new() }
    }

    /// The block under `key`.
    ///
    /// # Errors
    /// A value that is not an object.
    pub fn object(&self, key: &str) -> Result<Option<Self>, ConfigError> {
        self.read(key, "an object", |value| {
            let prefix = format!("{}{key}.", self.prefix);
            value.as_object().map(|map| Self { map, path: self.path, prefix })
        })
    }

    /// The block under `key`, which has to be there.
    ///
    /// # Errors
    /// Those of `object`, and [`ConfigError::Missing`].
    pub fn required_object(&self, key: &str) -> Result<Self, ConfigError> {
        self.object(key)?.ok_or_else(|| self.missing(key))
    }

    /// All values of this object, each of them an object.
    ///
    /// # Errors
    /// A value that is not an object.
    pub fn objects(&self) -> Result<Vec<Self>, ConfigError> {
        self.map.keys().map(|key| self.required_object(key)).collect()
    }

    /// Whether this object has no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// A list of whole numbers from 1.
    ///
    /// # Errors
    /// A value that is not a list, or holds something else.
    pub fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>, ConfigError> {
        self.read(key, "a list of whole numbers from 1", |value| {
            value.as_array()?.iter().map(|value| whole(value, 1)).collect()
        })
    }

    /// A whole number from 0.
    ///
    /// # Errors
    /// A value that is not a whole number from 0 to 2³¹ - 1.
    pub fn count(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.read(key, "a whole number from 0 to 2147483647", |value| whole(value, 0))
    }

    /// A whole number from 1.
    ///
    /// # Errors
    /// A value that is not a whole number from 1 to 2³¹ - 1.
    pub fn size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.read(key, "a whole number from 1 to 2147483647", |value| whole(value, 1))
    }

    /// A [`size`](Self::size) that has to be there.
    ///
    /// # Errors
    /// Those of `size`, and [`ConfigError::Missing`].
    pub fn required_size(&self, key: &str) -> Result<usize, ConfigError> {
        self.size(key)?.ok_or_else(|| self.missing(key))
    }

    /// A finite number.
    ///
    /// # Errors
    /// A value that is not a number.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.read(key, "a number", |value| value.as_f64().filter(|number| number.is_finite()))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// A value that is neither.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// A string.
    ///
    /// # Errors
    /// A value that is not a string.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        self.read(key, "a string", Value::as_str)
    }

    /// A list of strings.
    ///
    /// # Errors
    /// A value that is not a list, or holds something else.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, ConfigError> {
        self.read(key, "a list of strings", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    /// Token ids: one number or a list; empty where the key is absent.
    ///
    /// # Errors
    /// A value that is neither.
    pub fn token_ids(&self, key: &str) -> Result<Vec<u32>, ConfigError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = self.read(key, "a token id or a list of token ids", |value| match value {
            Value::Array(list) => list.iter().map(id).collect(),
            single => id(single).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    /// Whether `key` is there with the value `null`, which says more than its absence.
    #[must_use]
    pub fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    /// The error for a key that has to be there.
    #[must_use]
    pub fn missing(&self, key: &str) -> ConfigError {
        ConfigError::Missing { path: self.path.to_owned(), key: self.full(key) }
    }

    /// The error for a value that is not accepted.
    #[must_use]
    pub fn invalid(&self, key: &str, found: impl Display, wanted: impl Display) -> ConfigError {
        ConfigError::Invalid {
            path: self.path.to_owned(),
            key: self.full(key),
            found: found.to_string(),
            wanted: wanted.to_string(),
        }
    }

    fn read<T>(
        &self,
        key: &str,
        wanted: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                convert(value).map(Some).ok_or_else(|| self.invalid(key, shown(value), wanted))
            }
        }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

fn whole(value: &Value, smallest: u64) -> Option<usize> {
    let number = value.as_u64().filter(|number| (smallest..=LARGEST).contains(number))?;
    usize::try_from(number).ok()
}

/// The value as JSON, cut where it is long.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
