//! From PEM texts to rustls configurations. Both let their secrets be extracted: the record layer is our own.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig as RustlsClient, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig as RustlsServer, SignatureScheme, SupportedProtocolVersion, version,
};

use super::identity::RevocationList;
use super::key_schedule::provider;
use super::tickets::ConfiguredTickets;
use super::verified::{Chain, VerifiedChains};
use crate::core::iphttps::Identity;
use crate::io::config::{Authentication, Cipher, ClientConfig, Refused, Tls};

/// What a listener needs to admit clients.
#[derive(Debug)]
pub struct ServerSetup {
    pub rustls: Arc<RustlsServer>,
    /// None when certificates are not asked for.
    pub verifier: Option<Arc<RevocationVerifier>>,
}

fn certificates(pem: &str, field: &str) -> Result<Vec<CertificateDer<'static>>, Refused> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Refused(format!("{field}: {error}")))
}

fn roots(pem: &str, field: &str) -> Result<Arc<RootCertStore>, Refused> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem, field)? {
        store.add(certificate).map_err(|error| Refused(format!("{field}: {error}")))?;
    }
    if store.is_empty() {
        return Err(Refused(format!("{field}: no certificate in it")));
    }
    Ok(Arc::new(store))
}

fn key(pem: &str, field: &str) -> Result<PrivateKeyDer<'static>, Refused> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| Refused(format!("{field}: {error}")))
}

/// Builds the server's side. Client certificates are asked for but not demanded: enrolment shares the port, and
/// IP-HTTPS itself refuses a session without an identity.
pub fn server(
    config: &Tls,
    authentication: Authentication,
    revoked: &Arc<RwLock<RevocationList>>,
) -> Result<ServerSetup, Refused> {
    let versions: &[&SupportedProtocolVersion] = match config.minimum_version.as_str() {
        "1.2" => &[&version::TLS13, &version::TLS12],
        "1.3" => &[&version::TLS13],
        other => return Err(Refused(format!("tls.minimum_version: {other:?} is neither \"1.2\" nor \"1.3\""))),
    };
    if config.ciphers.is_empty() {
        return Err(Refused("tls.ciphers: none is accepted".to_owned()));
    }
    let provider = Arc::new(provider(&config.ciphers));
    let builder = RustlsServer::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|error| Refused(format!("tls: {error}")))?;
    let verifier = match authentication {
        Authentication::None => None,
        Authentication::Certificates => {
            let inner =
                WebPkiClientVerifier::builder_with_provider(roots(&config.client_ca, "tls.client_ca")?, provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| Refused(format!("tls.client_ca: {error}")))?;
            Some(Arc::new(RevocationVerifier { inner, verified: VerifiedChains::default(), revoked: revoked.clone() }))
        }
    };
    let chain = certificates(&config.certificate_chain, "tls.certificate_chain")?;
    let key = key(&config.private_key, "tls.private_key")?;
    let builder = match &verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
        None => builder.with_no_client_auth(),
    };
    let mut rustls =
        builder.with_single_cert(chain, key).map_err(|error| Refused(format!("tls.certificate_chain: {error}")))?;
    rustls.ignore_client_order = true;
    rustls.ticketer = Arc::new(ConfiguredTickets::new(&config.ticket_keys, authentication)?);
    rustls.session_storage = Arc::new(NoServerSessionStorage {});
    rustls.send_tls13_tickets = 1;
    rustls.enable_secret_extraction = true;
    Ok(ServerSetup { rustls: Arc::new(rustls), verifier })
}

/// Builds the client's side.
pub fn client(config: &ClientConfig) -> Result<Arc<RustlsClient>, Refused> {
    let builder = RustlsClient::builder_with_provider(Arc::new(provider(&Cipher::PREFERRED)))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| Refused(format!("tls: {error}")))?
        .with_root_certificates(roots(&config.trust, "trust")?);
    let mut rustls = match (&config.certificate_chain, &config.private_key) {
        (Some(chain), Some(private)) => builder
            .with_client_auth_cert(certificates(chain, "certificate_chain")?, key(private, "private_key")?)
            .map_err(|error| Refused(format!("certificate_chain: {error}")))?,
        _ => builder.with_no_client_auth(),
    };
    rustls.enable_secret_extraction = true;
    Ok(Arc::new(rustls))
}

/// The usual verification, once for each chain, then the list of revoked certificates, so that the handshake itself
/// fails.
#[derive(Debug)]
pub struct RevocationVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    verified: VerifiedChains,
    revoked: Arc<RwLock<RevocationList>>,
}

impl RevocationVerifier {
    /// Whose a chain is, if all that [`ClientCertVerifier::verify_client_cert`] demands holds now.
    pub fn admit(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<Identity>, Error> {
        let chain = Chain::of(own, others);
        let identity = match self.verified.find(&chain, now) {
            Some(identity) => identity,
            None => {
                self.inner.verify_client_cert(own, others, now)?;
                self.verified.insert(&chain, own, others).ok_or(CertificateError::BadEncoding)?
            }
        };
        if self.revoked.read().contains(&identity) {
            return Err(CertificateError::Revoked.into());
        }
        Ok(identity)
    }
}

impl ClientCertVerifier for RevocationVerifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.admit(end_entity, intermediates, now).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
