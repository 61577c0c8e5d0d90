//! The probe of the endpoints: versions, alarms, and a sentence for each that does not answer as it should.

use std::time::Duration;

use super::{Connection, SharedConnection, endpoint::Endpoint, errors::classify};
use crate::storage::StoreError;

/// Older ones are refused: leases and watches there are not what the protocol needs.
const FLOOR: Version = Version(3, 4, 0);
/// Older ones can drop all leases or lose watch events (both mended in 3.5.13), which costs elections and time.
const RECOMMENDED: Version = Version(3, 5, 13);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let core = text.split(['-', '+']).next()?;
        let mut parts = core.split('.').map(|part| part.parse().ok());
        Some(Self(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
    }
}

/// Asks every endpoint again and again how it is. Ends with a sentence if an endpoint can never be used.
pub(crate) async fn probe(connection: SharedConnection) -> String {
    let period = connection.lease_timeout.max(Duration::from_secs(1));
    let mut warned = vec![false; connection.endpoints.len()];
    loop {
        for (endpoint, warned) in connection.endpoints.iter().zip(&mut warned) {
            match connection.ask(endpoint).await {
                Ok(Some(version)) if version < FLOOR => {
                    let Version(major, minor, patch) = version;
                    return format!(
                        "etcd at {} has version {major}.{minor}.{patch}, and Quorate needs 3.4 or newer (3.5.13 or \
                         newer is recommended); upgrade etcd",
                        endpoint.address
                    );
                }
                Ok(Some(Version(major, minor, patch)))
                    if Version(major, minor, patch) < RECOMMENDED && !*warned =>
                {
                    *warned = true;
                    tracing::warn!(
                        etcd = endpoint.address,
                        version = %format_args!("{major}.{minor}.{patch}"),
                        "this etcd may drop leases and lose watch events, which costs elections; 3.5.13 or newer is \
                         recommended"
                    );
                }
                _ => {}
            }
        }
        connection.runtime.clock.sleep(period).await;
    }
}

impl Connection {
    /// One probe of one endpoint; what it finds is noted there.
    async fn ask(&self, endpoint: &Endpoint) -> Result<Option<Version>, ()> {
        let clock = &self.runtime.clock;
        let status = async {
            let mut client = endpoint.client(&self.options).await?;
            client.status().await
        };
        let failure = match clock.timeout(self.lease_timeout, status).await {
            Ok(Ok(status)) => {
                endpoint.probed(clock.now(), Ok(status.errors()));
                return Ok(Version::parse(status.version()));
            }
            Ok(Err(error)) => classify(&error),
            Err(_) => StoreError::Unknown(format!("no answer within {} ms", self.lease_timeout.as_millis())),
        };
        let sentence = match failure {
            StoreError::Refused(_, why) => why,
            StoreError::Unknown(why) => {
                endpoint.forget();
                self.diagnose(endpoint, &why).await
            }
        };
        endpoint.probed(clock.now(), Err(sentence));
        Err(())
    }

    /// Tells a port where nobody listens from one where somebody else does.
    async fn diagnose(&self, endpoint: &Endpoint, why: &str) -> String {
        let connect = self.runtime.network.connect(&endpoint.address);
        match self.runtime.clock.timeout(self.lease_timeout, connect).await {
            Err(_) => "unreachable: the connection attempt is not answered".to_owned(),
            Ok(Err(error)) => format!("unreachable: {error}"),
            Ok(Ok(_)) if why.starts_with("no answer") => {
                format!("unreachable: it accepts connections, but gives {why}")
            }
            Ok(Ok(_)) if why.starts_with("etcdserver: ") => format!("unusable: {why}"),
            Ok(Ok(_)) if endpoint.encrypted => {
                format!("unreachable: somebody listens there, but TLS with etcd fails: {why}")
            }
            Ok(Ok(_)) => format!(
                "unreachable: somebody listens there, but not as etcd's client port does; is it etcd, and should the \
                 endpoint begin with https://? ({why})"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(Version::parse("3.4.23").unwrap() >= FLOOR);
        assert!(Version::parse("3.5.9").unwrap() < RECOMMENDED);
        assert!(Version::parse("3.7.0-rc.0").unwrap() > RECOMMENDED);
        assert!(Version::parse("3.3.27").unwrap() < FLOOR);
        assert_eq!(Version::parse("dev"), None);
    }
}
