//! TLS towards the agents of Consul.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::settings::{ConsulTls, InvalidSetting, Target};

/// How one agent is spoken to in secret.
#[derive(Clone)]
pub(crate) struct Secret {
    pub(crate) connector: TlsConnector,
    /// What its certificate has to name.
    pub(crate) name: ServerName<'static>,
}

impl Secret {
    pub(crate) fn of(
        connector: &TlsConnector,
        tls: &ConsulTls,
        target: &Target,
    ) -> Result<Secret, InvalidSetting> {
        let name = match &tls.server_name {
            Some(name) => name.clone(),
            None => target.host().to_owned(),
        };
        let name = ServerName::try_from(name)
            .map_err(|_| invalid("the name of the server is none that a certificate can have"))?;
        Ok(Secret {
            connector: connector.clone(),
            name,
        })
    }
}

/// What makes connections secret, for all agents.
pub(crate) fn connector(tls: &ConsulTls) -> Result<TlsConnector, InvalidSetting> {
    let mut roots = RootCertStore::empty();
    match &tls.authorities {
        Some(pem) => {
            for certificate in certificates(pem)? {
                roots
                    .add(certificate)
                    .map_err(|_| invalid("an authority is no certificate"))?;
            }
            if roots.is_empty() {
                return Err(invalid("there is no authority in what should have some"));
            }
        }
        None => {
            // One that cannot be read is trusted no more than one that is not there.
            for certificate in rustls_native_certs::load_native_certs().certs {
                let _ = roots.add(certificate);
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(&error.to_string()))?
        .with_root_certificates(roots);
    let config = match &tls.identity {
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|_| invalid("the private key is none in PEM format"))?;
            config
                .with_client_auth_cert(certificates(certificate)?, key)
                .map_err(|_| invalid("the certificate and the private key do not fit"))?
        }
        None => config.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, InvalidSetting> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.map_err(|_| invalid("a certificate is none in PEM format"))
}

fn invalid(what: &str) -> InvalidSetting {
    InvalidSetting(format!("the TLS configuration of Consul: {what}"))
}
