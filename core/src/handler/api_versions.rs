//! ApiVersions (KIP-35, KIP-511, KIP-584, KIP-1242): derived from the table that dispatches.

use bytes::BytesMut;

use super::{
    Handlers,
    request::{Caller, Closed, Reply, Request},
};
use crate::{
    ids::{NodeId, base64_id},
    protocol::{
        apis::{self, Api, ApiKey},
        bodies::{self, ApiVersionsResponse, api_versions_response::*, text},
        errors::ErrorCode,
        header::{self, Extras},
        outgoing::Outgoing,
        primitives::{Malformed, Reader},
    },
};

/// The newest version whose response has a schema of its own: 5 changed the request alone.
const RESPONSE_MAX: i16 = 4;

/// Features that this code can serve: name, lowest and highest level. 29 is Kafka 4.2's metadata version.
pub(super) const SUPPORTED: [(&str, i16, i16); 2] = [("kraft.version", 0, 1), ("metadata.version", 7, 29)];

/// The answer to a version that is not served: in version 0, with the range that is (KIP-511).
pub(super) fn unsupported(correlation_id: i32) -> Reply {
    let own = apis::find(ApiKey::API_VERSIONS).into_iter().map(range).collect();
    let body =
        ApiVersionsResponse::default().with_error_code(ErrorCode::UNSUPPORTED_VERSION.0).with_api_keys(own);
    let mut frame = Outgoing::new();
    header::write_response(frame.buffer(), correlation_id, false, &Extras::default());
    match bodies::encode(frame.buffer(), &body, ApiKey::API_VERSIONS, 0) {
        Ok(()) => Reply::Frame(frame),
        Err(error) => Reply::Close(Closed(error.to_string())),
    }
}

/// The answer to a version that is served.
pub(super) fn answer(handlers: &Handlers, caller: &Caller, request: &Request) -> Result<Reply, Closed> {
    let asked = Asked::read(request)?;
    let response = match asked.problem(handlers, request.version) {
        Some(error) => ApiVersionsResponse::default().with_error_code(error.0),
        None => response(handlers, caller, request.version),
    };
    let mut encoded = Ok(());
    let reply = request.reply_raw(|buffer: &mut BytesMut| {
        encoded = bodies::encode(buffer, &response, ApiKey::API_VERSIONS, request.version.min(RESPONSE_MAX));
    });
    encoded.map_err(|error| Closed(error.to_string()))?;
    Ok(reply)
}

/// What the request says. Our own reading: the codec does not know version 5.
#[derive(Debug, Default)]
struct Asked {
    software: Option<(String, String)>,
    cluster: Option<String>,
    node: NodeId,
}

impl Asked {
    fn read(request: &Request) -> Result<Self, Malformed> {
        let mut reader = Reader::new(&request.body);
        let mut asked = Self { node: NodeId::NONE, ..Self::default() };
        if request.version >= 3 {
            asked.software = Some((reader.string(true)?.to_owned(), reader.string(true)?.to_owned()));
        }
        if request.version >= 5 {
            asked.cluster = reader.nullable_string(true)?.map(str::to_owned);
            asked.node = NodeId(reader.i32()?);
        }
        reader.skip_tags(request.version >= 3)?;
        reader.finish()?;
        Ok(asked)
    }

    /// Whether the client is not what it says, or not where it means to be.
    fn problem(&self, handlers: &Handlers, version: i16) -> Option<ErrorCode> {
        let named = |name: &str| is_software_name(name);
        if self.software.as_ref().is_some_and(|(name, version)| !named(name) || !named(version)) {
            return Some(ErrorCode::INVALID_REQUEST);
        }
        if version < 5 {
            return None;
        }
        let Some(cluster) = &self.cluster else {
            return (self.node != NodeId::NONE).then_some(ErrorCode::INVALID_REQUEST);
        };
        // Never before this node knows which cluster it belongs to.
        let own = handlers.broker.image().founding?.cluster;
        let elsewhere = *cluster != base64_id(own);
        let another = self.node != NodeId::NONE && self.node != handlers.broker.node();
        (elsewhere || another).then_some(ErrorCode::REBOOTSTRAP_REQUIRED)
    }
}

/// Letters, digits, dots and hyphens, the first and last of them a letter or digit (KIP-511).
fn is_software_name(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    ends(name.chars().next())
        && ends(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
}

fn response(handlers: &Handlers, caller: &Caller, version: i16) -> ApiVersionsResponse {
    let served = |api: &&Api| api.advertised && api.listeners.meets(caller.purposes);
    let mut response =
        ApiVersionsResponse::default().with_api_keys(apis::APIS.iter().filter(served).map(range).collect());
    if version < 3 {
        return response;
    }
    // Clients of versions up to 3 take a lowest level of 0 for a mistake (KAFKA-17011).
    let features = SUPPORTED.iter().filter(|(_, min, _)| version >= 4 || *min > 0);
    response.supported_features = features
        .map(|(name, min, max)| {
            SupportedFeatureKey::default()
                .with_name(text(*name))
                .with_min_version(*min)
                .with_max_version(*max)
        })
        .collect();
    let image = handlers.broker.image();
    if image.founding.is_some() {
        response.finalized_features_epoch = i64::try_from(image.index.0).unwrap_or(i64::MAX);
        response.finalized_features = image
            .features
            .iter()
            .map(|(name, level)| {
                let level = i16::try_from(*level).unwrap_or(i16::MAX);
                FinalizedFeatureKey::default()
                    .with_name(text(name.to_string()))
                    .with_max_version_level(level)
                    .with_min_version_level(level)
            })
            .collect();
    }
    response
}

fn range(api: &Api) -> ApiVersion {
    let (min, max) = api.advertised_range();
    ApiVersion::default().with_api_key(api.key.0).with_min_version(min).with_max_version(max)
}
