//! Guard: which addresses a request to a place that a user has named may reach. Not our own network, unless the
//! operator has allowed the host by name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Public addresses, and hosts that were allowed by name.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    allowed: Vec<String>,
}

impl Guard {
    /// With these hosts allowed, in lower case, without ports.
    pub(crate) fn new(allowed: &[String]) -> Guard {
        Guard { allowed: allowed.to_vec() }
    }

    /// Whether a request may go to this URL, as far as its text tells; where a name leads is looked at when it is
    /// connected to.
    ///
    /// # Errors
    /// Why not, for people.
    pub(crate) fn check(&self, url: &str) -> Result<(), String> {
        let url = Url::parse(url).map_err(|_| "is not a URL such as https://app.example/webhooks")?;
        let host = url.host_str().unwrap_or("").trim_matches(['[', ']', '.']).to_ascii_lowercase();
        if host.is_empty() || !matches!(url.scheme(), "http" | "https") {
            return Err("must start with https://".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not hold a user or password".to_owned());
        }
        if self.allows(&host) {
            return Ok(());
        }
        if url.scheme() == "http" {
            return Err("must start with https://, unless OPENTAB_WEBHOOK_ALLOW names the host".to_owned());
        }
        match host.parse::<IpAddr>() {
            Ok(address) if !is_public(address) => Err(private()),
            _ if host == "localhost" || host.ends_with(".localhost") => Err(private()),
            _ => Ok(()),
        }
    }

    fn allows(&self, host: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed == host)
    }
}

fn private() -> String {
    "leads into a private network; OPENTAB_WEBHOOK_ALLOW can allow the host by name".to_owned()
}

/// Looks names up for the connection itself, so that a name cannot lead elsewhere between the check and the use.
impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.allows(&name.as_str().to_ascii_lowercase());
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let usable: Vec<_> = found.filter(|address| allowed || is_public(address.ip())).collect();
            if usable.is_empty() { Err(private().into()) } else { Ok(Box::new(usable.into_iter()) as Addrs) }
        })
    }
}

/// Whether an address belongs to the public internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let private = matches!(
        address.octets(),
        [0 | 10 | 127, ..]
            | [100, 64..=127, ..]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [192, 168, ..]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [224..=255, ..]
    );
    !private
}

/// Global unicast only, and nothing that carries another address in itself.
fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // Teredo, benchmarking, ORCHID and documentation.
        [0x2001, 0..=0x1ff | 0xdb8, ..] => false,
        // 6to4.
        [0x2002, ..] => false,
        [0x3fff, 0..=0xfff, ..] => false,
        [0x2000..=0x3fff, ..] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(allowed: &str) -> Guard {
        Guard::new(&[allowed.to_owned()])
    }

    #[test]
    fn no_spelling_of_a_private_address_gets_through() {
        let urls = [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://10.1.2.3/",
            "https://172.16.0.1/",
            "https://192.168.1.1/",
            "https://169.254.169.254/latest",
            "https://100.64.0.1/",
            "https://0.0.0.0/",
            "https://[::1]/",
            "https://[::]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[fd00::1]/",
            "https://[fe80::1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[2002:7f00:1::]/",
            "https://localhost/",
            "https://a.localhost/",
            "https://255.255.255.255/",
            "https://LOCALHOST./",
        ];
        for url in urls {
            assert!(guard("else.example").check(url).is_err(), "{url}");
        }
    }

    #[test]
    fn only_https_and_only_http_where_the_host_is_allowed() {
        for url in [
            "http://app.example/",
            "ftp://app.example/",
            "file:///etc/passwd",
            "https://u:p@app.example/",
            "x",
        ] {
            assert!(guard("").check(url).is_err(), "{url}");
        }
        assert_eq!(guard("").check("https://app.example/hooks"), Ok(()));
        assert_eq!(guard("10.0.0.5").check("http://10.0.0.5:8080/hooks"), Ok(()));
        assert_eq!(guard("app.internal").check("http://APP.internal/"), Ok(()));
    }

    #[test]
    fn public_addresses_are_public() {
        for address in ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001::1"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_home_is_not_connected_to() {
        assert!(guard("").resolve("localhost".parse().unwrap()).await.is_err());
        assert!(guard("localhost").resolve("localhost".parse().unwrap()).await.is_ok());
    }
}
