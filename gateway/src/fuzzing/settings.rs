//! What the gateway is configured with, and client certificates.

use super::Outcomes;
use super::input::Input;
use crate::io::config::{ClientConfig, ServerConfig, Url};
use crate::io::tls::identity::{IdentityJson, RevocationList, identity_of};

pub fn config(input: &mut Input<'_>, seen: &mut Outcomes) {
    let Ok(text) = std::str::from_utf8(input.rest()) else { return };
    match ServerConfig::parse(text) {
        Ok(config) => {
            seen.note_text("config", "Server");
            assert!((1..=256).contains(&config.workers));
            assert!(!format!("{config:?}").contains("PRIVATE KEY"), "secrets stay out of debug output");
        }
        Err(refused) => assert!(!refused.0.is_empty()),
    }
    match ClientConfig::parse(text) {
        Ok(config) => {
            seen.note_text("config", "Client");
            assert!(Url::parse(&config.url).is_ok());
        }
        Err(refused) => assert!(!refused.0.is_empty()),
    }
    if let Ok(url) = Url::parse(text) {
        seen.note_text("url", "Url");
        assert!(!url.host.is_empty() && url.path.starts_with('/'));
        let again = Url::parse(&format!("https://{}{}", url.authority(), url.path));
        assert_eq!(again.as_ref(), Ok(&url));
        // Nothing of it may end a line of a request.
        assert!(url.host.bytes().chain(url.path.bytes()).all(|byte| byte.is_ascii_graphic()));
    }
}

pub fn certificate(input: &mut Input<'_>, seen: &mut Outcomes) {
    let identity = identity_of(&input.rest().into());
    let Some(identity) = identity else { return seen.note_text("certificate", "None") };
    seen.note_text("certificate", "Identity");
    assert!(identity.serial.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
    assert!(!identity.serial.is_empty() && (identity.serial == "0" || !identity.serial.starts_with('0')));
    assert!(serde_json::json!(IdentityJson::from(&identity))["serial"].is_string());
    assert!(!RevocationList::default().contains(&identity));
}
