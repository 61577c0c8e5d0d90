//! Request and response headers, with the tagged fields that brokers add when they talk to each other.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::{
    apis::{self, Api, ApiKey},
    primitives::{Malformed, Reader, Writer},
};
use crate::ids::{Epoch, LogIndex};

/// Tag of the request header: the epoch of the controller that the request is meant for.
const TAG_CONTROLLER_EPOCH: u32 = 10_000;
/// Tag of request and response headers: a position in the metadata log.
const TAG_IMAGE_INDEX: u32 = 10_001;

/// What brokers tell each other besides Kafka's own fields. Empty towards and from Kafka's clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// In a request: the controller epoch that the sender believes in; another controller refuses it.
    pub controller_epoch: Option<Epoch>,
    /// In a request, how far the sender's image has come; in a response, the index that the sender's image must reach
    /// before what was done can be seen there.
    pub image_index: Option<LogIndex>,
}

/// The header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    /// The kind of request.
    pub key: ApiKey,
    /// The version of its body.
    pub version: i16,
    /// Comes back in the response.
    pub correlation_id: i32,
    /// What the client calls itself: whatever bytes it sent, at most 32,767. Never to be trusted or logged raw.
    pub client_id: Option<&'a [u8]>,
    /// Other brokers' extras.
    pub extras: Extras,
}

/// Why a request's header cannot be answered.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum HeaderError {
    /// The key is not served here; the connection is closed, as Kafka does.
    #[error("API key {0} is not served on this listener")]
    UnknownKey(i16),
    /// The bytes are no header.
    #[error("the request header is malformed: {0}")]
    Malformed(#[from] Malformed),
}

/// The first eight bytes of every request, whatever its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    /// The kind of request.
    pub key: ApiKey,
    /// The version of its body.
    pub version: i16,
    /// Comes back in the response.
    pub correlation_id: i32,
}

/// Reads what every request begins with, so that ApiVersions of an unknown version can be answered unparsed.
///
/// # Errors
/// [`Malformed::Truncated`].
pub fn peek(frame: &[u8]) -> Result<Peek, Malformed> {
    let mut reader = Reader::new(frame);
    Ok(Peek { key: ApiKey(reader.i16()?), version: reader.i16()?, correlation_id: reader.i32()? })
}

/// Reads a request header; the reader stands at the body then.
///
/// # Errors
/// [`HeaderError`].
pub fn read_request<'a>(reader: &mut Reader<'a>) -> Result<(RequestHeader<'a>, &'static Api), HeaderError> {
    let key = ApiKey(reader.i16()?);
    let version = reader.i16()?;
    let correlation_id = reader.i32()?;
    let api = apis::find(key).ok_or(HeaderError::UnknownKey(key.0))?;
    // The client id keeps its old form in header 2 (KIP-482).
    let client_id = reader.string_bytes(false)?;
    let extras = read_extras(reader, api.is_flexible(version))?;
    Ok((RequestHeader { key, version, correlation_id, client_id, extras }, api))
}

/// Appends a request header.
pub fn write_request(buffer: &mut BytesMut, header: &RequestHeader<'_>, flexible: bool) {
    buffer.put_i16(header.key.0);
    buffer.put_i16(header.version);
    buffer.put_i32(header.correlation_id);
    match header.client_id {
        None => buffer.put_i16(-1),
        Some(id) => {
            let id = id.get(..id.len().min(i16::MAX as usize)).unwrap_or_default();
            buffer.put_i16(i16::try_from(id.len()).unwrap_or(i16::MAX));
            buffer.put_slice(id);
        }
    }
    if flexible {
        write_extras(buffer, &header.extras);
    }
}

/// Appends a response header. `flexible` is [`Api::has_flexible_response_header`].
pub fn write_response(buffer: &mut BytesMut, correlation_id: i32, flexible: bool, extras: &Extras) {
    buffer.put_i32(correlation_id);
    if flexible {
        write_extras(buffer, extras);
    }
}

/// Takes the response header off a frame: the correlation id, the extras, and the body.
///
/// # Errors
/// [`Malformed`].
pub fn read_response(mut frame: Bytes, flexible: bool) -> Result<(i32, Extras, Bytes), Malformed> {
    let mut reader = Reader::new(&frame);
    let correlation_id = reader.i32()?;
    let extras = read_extras(&mut reader, flexible)?;
    let header = reader.position();
    Ok((correlation_id, extras, frame.split_off(header)))
}

fn read_extras(reader: &mut Reader<'_>, flexible: bool) -> Result<Extras, Malformed> {
    let mut extras = Extras::default();
    reader.tags(flexible, |tag, mut value| {
        match tag {
            TAG_CONTROLLER_EPOCH => extras.controller_epoch = Some(Epoch(unsigned(value.i64()?)?)),
            TAG_IMAGE_INDEX => extras.image_index = Some(LogIndex(unsigned(value.i64()?)?)),
            _ => return Ok(()),
        }
        value.finish().map_err(|_| Malformed::TagLength)
    })?;
    Ok(extras)
}

fn unsigned(value: i64) -> Result<u64, Malformed> {
    u64::try_from(value).map_err(|_| Malformed::Value)
}

fn write_extras(buffer: &mut BytesMut, extras: &Extras) {
    let fields = [
        (TAG_CONTROLLER_EPOCH, extras.controller_epoch.map(|epoch| epoch.0)),
        (TAG_IMAGE_INDEX, extras.image_index.map(|index| index.0)),
    ];
    let present = fields.iter().filter(|(_, value)| value.is_some()).count();
    buffer.unsigned_varint(u32::try_from(present).unwrap_or_default());
    for (tag, value) in fields {
        if let Some(value) = value {
            buffer.tag(tag, &value.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_both_versions_come_back() {
        let extras = Extras { controller_epoch: Some(Epoch(7)), image_index: Some(LogIndex(99)) };
        for (version, flexible, extras) in [(3, false, Extras::default()), (13, true, extras)] {
            let header = RequestHeader {
                key: ApiKey::METADATA,
                version,
                correlation_id: -5,
                client_id: Some(b"\xff"),
                extras,
            };
            let mut buffer = BytesMut::new();
            write_request(&mut buffer, &header, flexible);
            let mut reader = Reader::new(&buffer);
            let (read, _) = read_request(&mut reader).unwrap();
            assert_eq!(read, header);
            assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn a_header_cut_anywhere_is_an_error() {
        let extras = Extras { controller_epoch: Some(Epoch(1)), image_index: None };
        let header = RequestHeader {
            key: ApiKey::FETCH,
            version: 12,
            correlation_id: 1,
            client_id: Some(b"me"),
            extras,
        };
        let mut buffer = BytesMut::new();
        write_request(&mut buffer, &header, true);
        for cut in 0..buffer.len() {
            assert!(read_request(&mut Reader::new(&buffer[..cut])).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_response_header_comes_off_and_leaves_the_body() {
        let extras = Extras { controller_epoch: None, image_index: Some(LogIndex(4)) };
        let mut buffer = BytesMut::new();
        write_response(&mut buffer, 17, true, &extras);
        buffer.put_slice(b"body");
        assert_eq!(read_response(buffer.freeze(), true), Ok((17, extras, Bytes::from_static(b"body"))));
    }

    #[test]
    fn an_unknown_key_is_named() {
        let bytes = [0x03, 0xe7, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
        assert_eq!(read_request(&mut Reader::new(&bytes)).unwrap_err(), HeaderError::UnknownKey(999));
    }
}
