//! The proxy that the environment names for the service. The HTTP client's own choice takes `ALL_PROXY` first, ignores a
//! proxy that it does not support, and reads `NO_PROXY` unlike other programs.

use ureq::{Proxy, ProxyProtocol};
use url::Url;

use super::{InvalidEndpoint, is_loopback};
use crate::settings::Environment;

/// The proxy for requests to `url`. A loopback address has none.
pub(super) fn proxy(
    url: &Url,
    environment: &Environment,
) -> Result<Option<Proxy>, InvalidEndpoint> {
    let names = match url.scheme() {
        "https" => ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        _ => ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    let named = names.into_iter().find_map(|name| Some((name, environment.get(name)?)));
    let Some((name, address)) = named else { return Ok(None) };
    let direct = environment.get("NO_PROXY").or_else(|| environment.get("no_proxy"));
    if is_loopback(url)
        || direct.is_some_and(|hosts| hosts.split([',', ' ']).any(|host| is_in(url, host)))
    {
        return Ok(None);
    }
    let proxy = Proxy::new(address).ok();
    let is_http =
        |proxy: &Proxy| matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https);
    proxy.filter(is_http).map(Some).ok_or(InvalidEndpoint::Proxy(name))
}

/// Whether the URL's host is `entry` or in the domain `entry`, which may have a port. `*` stands for all hosts.
fn is_in(url: &Url, entry: &str) -> bool {
    let entry = entry.to_ascii_lowercase();
    let port = url.port_or_known_default().map(|port| format!(":{port}")).unwrap_or_default();
    let domain = entry.strip_suffix(&port).unwrap_or(&entry);
    let domain = domain.trim_start_matches("*.").trim_start_matches('.').trim_matches(['[', ']']);
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_below = || host.strip_suffix(domain).is_some_and(|head| head.ends_with('.'));
    entry == "*" || !domain.is_empty() && (host == domain || is_below())
}
