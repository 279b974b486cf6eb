//! Reading a request's JSON, field by field, with errors that name the field.

use std::ops::RangeInclusive;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::limits;

/// The fields of an object. Those that nobody takes are ignored, as OpenAI-compatible servers do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields {
    map: Map<String, Value>,
    /// Of the object within the request, with a dot at its end, or empty.
    place: String,
}

impl Fields {
    /// Reads a whole body.
    pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Self, ApiError> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if let Some(kind) = kind
            && !kind.split(';').next().is_some_and(|kind| {
                let kind = kind.trim().to_ascii_lowercase();
                kind == "application/json" || kind.ends_with("+json")
            })
        {
            let message = format!("content-type: found {kind:?}, wanted \"application/json\"");
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let bytes = axum::body::to_bytes(body, limits::BODY);
        let bytes = tokio::time::timeout(limits::BODY_TIME, bytes).await.map_err(|_| {
            let message = format!("the body did not come within {:?}", limits::BODY_TIME);
            ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
        })?;
        let bytes = bytes.map_err(|error| {
            let too_long = std::error::Error::source(&error)
                .is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
            match too_long {
                true => ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("the body is longer than {} MiB", limits::BODY >> 20),
                ),
                false => ApiError::invalid(format!("the body broke off: {error}")),
            }
        })?;
        match serde_json::from_slice(&bytes) {
            Ok(value) => Self::of(value, ""),
            Err(error) => Err(ApiError::invalid(format!("the body is not JSON: {error}"))),
        }
    }

    /// Of a value that has to be an object, `place` within the request.
    pub(crate) fn of(value: Value, place: &str) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => {
                let place = if place.is_empty() { String::new() } else { format!("{place}.") };
                Ok(Self { map, place })
            }
            other => {
                let place = if place.is_empty() { "the body" } else { place };
                Err(ApiError::field(place, found(&other), "an object"))
            }
        }
    }

    /// Path of a field in the request.
    pub(crate) fn place(&self, name: &str) -> String {
        format!("{}{name}", self.place)
    }

    /// A field as it is; null is as if it were absent.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// What was taken by nobody.
    pub(crate) fn rest(self) -> Map<String, Value> {
        self.map
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, value: &Value, wanted: &str) -> ApiError {
        ApiError::field(&self.place(name), found(value), wanted)
    }

    pub(crate) fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().filter(|number| range.contains(number));
        let wanted = || format!("a number from {} to {}", range.start(), range.end());
        number.map(|n| Some(n as f32)).ok_or_else(|| self.wrong(name, &value, &wanted()))
    }

    pub(crate) fn count(
        &mut self,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<usize>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let whole = value.as_f64().filter(|n| n.fract() == 0.0 && *n >= 0.0 && *n < 9e15);
        let count = value.as_u64().or(whole.map(|n| n as u64)).filter(|n| range.contains(n));
        let wanted = || match *range.end() {
            u64::MAX => format!("a whole number from {}", range.start()),
            end => format!("a whole number from {} to {end}", range.start()),
        };
        count.map(|n| Some(n as usize)).ok_or_else(|| self.wrong(name, &value, &wanted()))
    }

    pub(crate) fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_i64().filter(|number| range.contains(number));
        let wanted = || format!("a whole number from {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| self.wrong(name, &value, &wanted()))
    }

    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(name, &value, "true or false"))
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, &other, "a text")),
        }
    }

    /// A text that has to be there.
    pub(crate) fn needed_text(&mut self, name: &str) -> Result<String, ApiError> {
        self.text(name)?.ok_or_else(|| ApiError::field(&self.place(name), "nothing", "a text"))
    }

    pub(crate) fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(self.wrong(name, &other, "a list")),
        }
    }

    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Fields>, ApiError> {
        let place = self.place(name);
        self.take(name).map(|value| Self::of(value, &place)).transpose()
    }

    /// A text, or a list of texts.
    pub(crate) fn texts(
        &mut self,
        name: &str,
        most: usize,
        most_bytes: usize,
    ) -> Result<Vec<String>, ApiError> {
        let values = match self.take(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(values)) => values,
            Some(value) => vec![value],
        };
        if values.len() > most {
            let wanted = format!("at most {most}");
            return Err(ApiError::field(&self.place(name), values.len(), &wanted));
        }
        let wanted = format!("texts of 1 to {most_bytes} bytes");
        let text = |value: Value| match value {
            Value::String(text) if !text.is_empty() && text.len() <= most_bytes => Ok(text),
            other => Err(ApiError::field(&self.place(name), found(&other), &wanted)),
        };
        values.into_iter().map(text).collect()
    }

    /// Token ids.
    pub(crate) fn ids(&mut self, name: &str, most: usize) -> Result<Vec<u32>, ApiError> {
        let values = self.list(name)?.unwrap_or_default();
        if values.len() > most {
            let wanted = format!("at most {most}");
            return Err(ApiError::field(&self.place(name), values.len(), &wanted));
        }
        values.iter().map(|value| id(value, &self.place(name))).collect()
    }
}

/// A token id.
pub(crate) fn id(value: &Value, place: &str) -> Result<u32, ApiError> {
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| ApiError::field(place, found(value), "a token id"))
}

/// A value in an error: short ones as they are.
pub(crate) fn found(value: &Value) -> String {
    const LONGEST: usize = 60;
    match value {
        Value::Null => "nothing".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::String(text) if text.len() > LONGEST => format!("a text of {} bytes", text.len()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let mut fields = Fields::of(
            json!({"a": "x", "n": 17, "t": -1, "f": 1, "s": [""], "o": 3, "z": null}),
            "",
        )
        .unwrap();
        let message = |error: ApiError| error.message;
        assert_eq!(fields.number("z", 0.0..=1.0), Ok(None));
        assert_eq!(
            message(fields.number("a", 0.0..=2.0).unwrap_err()),
            "a: found \"x\", wanted a number from 0 to 2"
        );
        assert_eq!(
            message(fields.count("n", 1..=16).unwrap_err()),
            "n: found 17, wanted a whole number from 1 to 16"
        );
        assert_eq!(
            message(fields.count("t", 1..=u64::MAX).unwrap_err()),
            "t: found -1, wanted a whole number from 1"
        );
        assert_eq!(message(fields.flag("f").unwrap_err()), "f: found 1, wanted true or false");
        assert_eq!(
            message(fields.texts("s", 4, 9).unwrap_err()),
            "s: found \"\", wanted texts of 1 to 9 bytes"
        );
        assert_eq!(message(fields.object("o").unwrap_err()), "o: found 3, wanted an object");
        let mut inner = Fields::of(json!({"x": "y"}), "text.format").unwrap();
        assert_eq!(inner.flag("x").unwrap_err().param.as_deref(), Some("text.format.x"));
    }
}
