//! The shapes are true: what is made after a shape is read by the codec to the last byte, and what the codec writes is
//! accepted by the guard. So each shape and the codec's own schema are the same.

use bytes::BufMut as _;

use super::{super::primitives::Writer as _, *};
use crate::runtime::Rng;

/// Makes bytes after a shape.
struct Maker<'a> {
    rng: &'a Rng,
    version: i16,
    flexible: bool,
    out: BytesMut,
}

impl Maker<'_> {
    fn structure(&mut self, shape: &str) {
        let tokens: Vec<&str> = shape.split_ascii_whitespace().collect();
        let mut tagged = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            at = self.field(&tokens, at, &mut tagged);
        }
        if self.flexible {
            self.out.unsigned_varint(u32::try_from(tagged.len()).unwrap());
            for (tag, bytes) in tagged {
                self.out.tag(tag, &bytes);
            }
        }
    }

    /// Makes the field at `at` and returns where the next begins.
    fn field(&mut self, tokens: &[&str], at: usize, tagged: &mut Vec<(u32, BytesMut)>) -> usize {
        let (kind, versions) = tokens[at].split_at(1);
        let present = in_range(versions, self.version);
        if !"([{<".contains(kind) {
            if present {
                self.primitive(kind);
            }
            return at + 1;
        }
        let end = closing(tokens, at);
        let inner = tokens[at + 1..end].join(" ");
        match kind {
            _ if !present => {}
            "<" if self.flexible => {
                let (tag, value) = inner.split_once(' ').unwrap();
                let out = std::mem::take(&mut self.out);
                let tokens: Vec<&str> = value.split(' ').collect();
                self.field(&tokens, 0, &mut Vec::new());
                tagged.push((tag.parse().unwrap(), std::mem::replace(&mut self.out, out)));
            }
            "<" => {}
            "{" if self.rng.below(2) == 0 => self.out.put_i8(-1),
            "{" => {
                self.out.put_i8(1);
                self.structure(&inner);
            }
            _ => self.array(kind, &inner),
        }
        end + 1
    }

    fn array(&mut self, kind: &str, inner: &str) {
        let count = usize::try_from(self.rng.below(4)).unwrap();
        self.out.count(self.flexible, Some(count));
        for _ in 0..count {
            if kind == "[" {
                self.structure(inner);
            } else {
                self.primitive(inner);
            }
        }
    }

    fn primitive(&mut self, kind: &str) {
        let random = self.rng.next_u64();
        match kind {
            // One byte is a boolean more often than not, and comes back as 0 or 1.
            "b" => self.out.put_u8(u8::try_from(random % 2).unwrap()),
            "h" => self.out.put_u16(u16::try_from(random >> 48).unwrap()),
            "i" => self.out.put_u32(u32::try_from(random >> 32).unwrap()),
            "l" => self.out.put_u64(random),
            "u" => self.out.uuid(self.rng.uuid()),
            "s" => self
                .out
                .nullable_string(self.flexible, Some(&"é".repeat(usize::try_from(random % 100).unwrap()))),
            "y" => {
                self.out.nullable_bytes(self.flexible, Some(&vec![7; usize::try_from(random % 200).unwrap()]))
            }
            other => panic!("no such token: {other}"),
        }
    }
}

fn closing(tokens: &[&str], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.as_bytes()[0] {
            b'(' | b'[' | b'{' | b'<' => depth += 1,
            b')' | b']' | b'}' | b'>' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("unclosed");
}

fn in_range(versions: &str, version: i16) -> bool {
    if versions.is_empty() {
        return true;
    }
    if let Some(from) = versions.strip_suffix('+') {
        return version >= from.parse().unwrap();
    }
    let (from, to) = versions.split_once('-').unwrap();
    version >= from.parse().unwrap_or(0) && version <= to.parse().unwrap()
}

fn made(shape: &str, version: i16, flexible: bool, rng: &Rng) -> Bytes {
    let mut maker = Maker { rng, version, flexible, out: BytesMut::new() };
    maker.structure(shape);
    maker.out.freeze()
}

/// Runs both directions for one kind of message at every version that is served and that the codec has.
fn prove<M: Decodable + Encodable + kafka_protocol::protocol::Message>(key: i16, shape: Option<&str>) {
    let key = ApiKey(key);
    let api = apis::find(key).unwrap();
    let shape = shape.unwrap_or_else(|| panic!("{key} has no shape"));
    let rng = Rng::seeded(u64::from(key.0.unsigned_abs()));
    let newest = api.max.min(M::VERSIONS.max);
    assert!(newest == api.max || key == ApiKey::API_VERSIONS, "{key} is capped by the codec");
    for version in api.min..=newest {
        let flexible = api.is_flexible(version);
        for _ in 0..100 {
            let bytes = made(shape, version, flexible, &rng);
            assert_eq!(guard::check(shape, &bytes, version, flexible), Ok(()), "{key} v{version}");
            let value: M =
                decode(bytes.clone(), version).unwrap_or_else(|e| panic!("{key} v{version}: {e} {bytes:?}"));
            let mut again = BytesMut::new();
            encode(&mut again, &value, key, version).unwrap();
            assert_eq!(guard::check(shape, &again, version, flexible), Ok(()), "{key} v{version} encoded");
            mangled::<M>(shape, &bytes, version, flexible, &rng);
        }
    }
}

/// What the guard accepts of damaged bytes, the codec may refuse but must survive.
fn mangled<M: Decodable>(shape: &str, bytes: &Bytes, version: i16, flexible: bool, rng: &Rng) {
    for _ in 0..10 {
        let mut bytes = bytes.to_vec();
        let at = usize::try_from(rng.below(bytes.len() as u64)).unwrap();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = u8::try_from(rng.below(256)).unwrap();
        }
        if rng.below(4) == 0 {
            bytes.truncate(at);
        }
        if guard::check(shape, &bytes, version, flexible).is_ok() {
            let _ = decode::<M>(Bytes::from(bytes), version);
        }
    }
}

fn prove_both<R: Request>() {
    prove::<R>(R::KEY, shapes::request(ApiKey(R::KEY)));
    prove::<R::Response>(R::KEY, shapes::response(ApiKey(R::KEY)));
}

#[test]
fn the_shapes_of_client_messages_are_the_codecs_own() {
    prove_both::<ListOffsetsRequest>();
    prove_both::<MetadataRequest>();
    prove_both::<ApiVersionsRequest>();
    prove_both::<CreateTopicsRequest>();
    prove_both::<DeleteTopicsRequest>();
    prove_both::<InitProducerIdRequest>();
    prove_both::<OffsetForLeaderEpochRequest>();
    prove_both::<DescribeConfigsRequest>();
    prove_both::<IncrementalAlterConfigsRequest>();
    prove_both::<DescribeQuorumRequest>();
    prove_both::<DescribeClusterRequest>();
    prove_both::<DescribeTopicPartitionsRequest>();
}

#[test]
fn the_shapes_of_messages_between_brokers_are_the_codecs_own() {
    prove_both::<AlterPartitionRequest>();
    prove_both::<EnvelopeRequest>();
    prove_both::<BrokerRegistrationRequest>();
    prove_both::<BrokerHeartbeatRequest>();
    prove_both::<AllocateProducerIdsRequest>();
}

#[test]
fn every_api_but_those_with_codecs_of_their_own_has_shapes() {
    let own = [ApiKey::PRODUCE, ApiKey::FETCH, ApiKey::HELLO, ApiKey::OBSERVE];
    for api in apis::APIS.iter().filter(|api| !own.contains(&api.key)) {
        assert!(shapes::request(api.key).is_some() && shapes::response(api.key).is_some(), "{}", api.key);
    }
}

#[test]
fn a_decoded_name_is_a_slice_of_the_frame() {
    let request = MetadataRequest::default().with_topics(Some(vec![
        metadata_request::MetadataRequestTopic::default().with_name(Some(topic_name("a topic"))),
    ]));
    let mut buffer = BytesMut::new();
    encode(&mut buffer, &request, ApiKey::METADATA, 12).unwrap();
    let frame = buffer.freeze();
    let read: MetadataRequest = decode_request(frame.clone(), 12).unwrap();
    let name = read.topics.unwrap()[0].name.clone().unwrap();
    let range = frame.as_ptr_range();
    assert!(range.contains(&name.as_str().as_ptr()));
}
