//! The client's end of a handshake that this process makes with itself. Nobody can be
//! in between, and a certificate that clients would refuse is no sign that the server
//! is dead, so nothing of it is verified.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::Protocol;

/// Makes such handshakes, each a whole one.
#[derive(Clone)]
pub struct Visitor(TlsConnector);

impl Visitor {
    /// Speaks all that a server may.
    ///
    /// # Errors
    /// Never, as long as the provider has a version of TLS.
    pub fn new() -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let anybody = Arc::new(Anybody(Arc::clone(&provider)));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(anybody)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        let protocols = [Protocol::Http2, Protocol::Http1];
        config.alpn_protocols = protocols.map(|it| it.name().as_bytes().to_vec()).into();
        Ok(Self(Arc::new(config).into()))
    }

    /// Makes one, and tells what is spoken then.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect(
        &self,
        stream: UnixStream,
    ) -> io::Result<(TlsStream<UnixStream>, Protocol)> {
        // It is not sent.
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let stream = self.0.connect(name, stream).await?;
        let chosen = stream.get_ref().1.alpn_protocol();
        let protocol = match chosen {
            Some(name) if name == Protocol::Http2.name().as_bytes() => Protocol::Http2,
            _ => Protocol::Http1,
        };
        Ok((stream, protocol))
    }
}

/// Takes whoever answers.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
