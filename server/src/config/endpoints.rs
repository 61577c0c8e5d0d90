//! Listeners and peers: `NAME://host:port`, `id@host:port`, `host:port`.

use std::{collections::BTreeMap, fmt};

use quorate_core::ids::NodeId;

/// A host and a port. The host is a name or an address, IPv6 without brackets; empty means every address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Endpoint {
    /// Reads `host:port`, with brackets around an IPv6 address.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("'{text}' is not host:port"))?;
        let port = port.parse().map_err(|_| format!("'{port}' in '{text}' is no port (0 to 65535)"))?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bracketed.is_none() && host.contains(':') {
            return Err(format!("an IPv6 address needs brackets: '[{host}]:{port}'"));
        }
        let host = bracketed.unwrap_or(host).to_owned();
        if host.contains(['/', ' ', '@', ',']) {
            return Err(format!("'{host}' in '{text}' is no host"));
        }
        Ok(Self { host, port })
    }

    /// Whether it stands for every address of the machine.
    pub(crate) fn is_wildcard(&self) -> bool {
        matches!(self.host.as_str(), "" | "0.0.0.0" | "::")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Reads `NAME://host:port,…`; names are upper case, as Kafka makes them.
///
/// # Errors
/// A sentence that names the first malformed or repeated listener.
pub(crate) fn parse_listeners(text: &str) -> Result<Vec<(String, Endpoint)>, String> {
    let mut listeners: Vec<(String, Endpoint)> = Vec::new();
    for item in items(text) {
        let (name, rest) =
            item.split_once("://").ok_or_else(|| format!("'{item}' is not NAME://host:port"))?;
        let name = name.to_uppercase();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            return Err(format!("'{name}' is no listener name: letters, digits, '_' and '-'"));
        }
        let endpoint = Endpoint::parse(rest)?;
        if listeners.iter().any(|(other, _)| *other == name) {
            return Err(format!("the listener {name} is given twice"));
        }
        let same_port = |other: &Endpoint| other.port != 0 && *other == endpoint;
        if let Some((other, _)) = listeners.iter().find(|(_, other)| same_port(other)) {
            return Err(format!("the listeners {other} and {name} are both at {endpoint}"));
        }
        listeners.push((name, endpoint));
    }
    Ok(listeners)
}

/// Reads `id@host:port,…`.
///
/// # Errors
/// A sentence that names the first malformed or repeated voter.
pub(crate) fn parse_voters(text: &str) -> Result<BTreeMap<NodeId, Endpoint>, String> {
    let mut voters = BTreeMap::new();
    for item in items(text) {
        let (id, rest) = item.split_once('@').ok_or_else(|| format!("'{item}' is not id@host:port"))?;
        let id = id.parse().ok().filter(|id| *id >= 0);
        let node = NodeId(id.ok_or_else(|| format!("the id in '{item}' is no number from 0"))?);
        let endpoint = peer(rest)?;
        if voters.contains_key(&node) || voters.values().any(|other| *other == endpoint) {
            return Err(format!("'{item}' repeats the id or the address of another voter"));
        }
        voters.insert(node, endpoint);
    }
    Ok(voters)
}

/// Reads `host:port,…`.
///
/// # Errors
/// A sentence that names the first malformed or repeated server.
pub(crate) fn parse_servers(text: &str) -> Result<Vec<Endpoint>, String> {
    let mut servers = Vec::new();
    for item in items(text) {
        let endpoint = peer(item)?;
        if servers.contains(&endpoint) {
            return Err(format!("'{item}' is given twice"));
        }
        servers.push(endpoint);
    }
    Ok(servers)
}

/// Reads `NAME:PROTOCOL,…` and refuses every protocol that is not served.
///
/// # Errors
/// A sentence that names the listener.
pub(crate) fn parse_protocols(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut protocols = BTreeMap::new();
    for item in items(text) {
        let (name, protocol) =
            item.split_once(':').ok_or_else(|| format!("'{item}' is not NAME:PROTOCOL"))?;
        let protocol = protocol.trim().to_uppercase();
        if !["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"].contains(&protocol.as_str()) {
            return Err(format!("'{protocol}' is no protocol of Kafka's"));
        }
        protocols.insert(name.trim().to_uppercase(), protocol);
    }
    Ok(protocols)
}

/// The items of a list, blanks cut, empty ones left out.
pub(crate) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn peer(text: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::parse(text)?;
    if endpoint.is_wildcard() || endpoint.port == 0 {
        return Err(format!("'{text}' does not say where to connect: it needs a host and a port above 0"));
    }
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Endpoint {
        Endpoint { host: host.to_owned(), port }
    }

    #[test]
    fn listeners_have_names_hosts_and_ports() {
        let listeners = parse_listeners("PLAINTEXT://:9092, internal://[::1]:9095,X://h:0").unwrap();
        let expected = [("PLAINTEXT", at("", 9092)), ("INTERNAL", at("::1", 9095)), ("X", at("h", 0))];
        assert_eq!(listeners, expected.map(|(name, endpoint)| (name.to_owned(), endpoint)));
        assert_eq!(listeners[1].1.to_string(), "[::1]:9095");
    }

    #[test]
    fn malformed_listeners_are_refused_with_a_reason() {
        for (text, reason) in [
            ("h:1", "NAME://host:port"),
            ("A://h", "host:port"),
            ("A://h:70000", "no port"),
            ("A://::1:9", "brackets"),
            ("A://h:1,a://g:2", "twice"),
            ("A://h:1,B://h:1", "both at h:1"),
            ("://h:1", "listener name"),
        ] {
            let error = parse_listeners(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn voters_need_an_id_and_an_address_of_their_own() {
        let voters = parse_voters("1@a:1,0@b:2").unwrap();
        assert_eq!(voters[&NodeId(0)], at("b", 2));
        for text in ["a:1", "x@a:1", "-1@a:1", "1@a:1,1@b:1", "1@a:1,2@a:1", "1@:9", "1@a:0"] {
            assert!(parse_voters(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_wildcard_is_recognised() {
        assert!(at("", 1).is_wildcard() && at("::", 1).is_wildcard() && !at("h", 1).is_wildcard());
    }
}
