//! From a name to a TCP connection: several addresses, one after the other with a head start (RFC 8305 section 5).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;

use crate::core::iphttps::ClientError;

/// What one attempt gets before the next address is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to the first address that answers.
pub async fn connect(host: &str, port: u16, addresses: &[IpAddr]) -> Result<TcpStream, ClientError> {
    let addresses: Vec<SocketAddr> = if addresses.is_empty() {
        let found = lookup_host((host, port)).await.map_err(|_| ClientError::HostNotFound)?;
        interleave(found.collect())
    } else {
        interleave(addresses.iter().map(|&address| SocketAddr::new(address, port)).collect())
    };
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut error = ClientError::NoAddress;
    let mut more = true;
    loop {
        if more {
            match waiting.next() {
                Some(address) => drop(attempts.spawn(TcpStream::connect(address))),
                None => more = false,
            }
        }
        tokio::select! {
            finished = attempts.join_next() => match finished {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(failure))) => error = of_io(&failure),
                Some(Err(_)) => {}
                None if !more => return Err(error),
                None => {}
            },
            () = tokio::time::sleep(HEAD_START), if more => {}
        }
    }
}

/// Families by turns, IPv6 first, otherwise in the order given (RFC 8305 section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (six, four): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
    let mut result = Vec::with_capacity(six.len() + four.len());
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    loop {
        let (one, two) = (six.next(), four.next());
        if one.is_none() && two.is_none() {
            return result;
        }
        result.extend(one.into_iter().chain(two));
    }
}

/// Sends what is to be sent and reads what comes, for the plain-text exchange with a proxy.
pub async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> Result<usize, ClientError> {
    let io = async {
        if !request.is_empty() {
            stream.write_all(request).await?;
        }
        stream.read(buffer).await
    };
    match io.await {
        Ok(0) => Err(ClientError::BadProxyResponse),
        Ok(count) => Ok(count),
        Err(error) => Err(of_io(&error)),
    }
}

pub fn of_io(error: &io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ClientError::Refused,
        io::ErrorKind::TimedOut => ClientError::TimedOut,
        io::ErrorKind::NetworkUnreachable => ClientError::NetworkUnreachable,
        io::ErrorKind::HostUnreachable => ClientError::HostUnreachable,
        _ => ClientError::Reset,
    }
}

/// The name for what TLS found wrong.
pub fn of_tls(error: &rustls::Error) -> ClientError {
    use rustls::{CertificateError as Certificate, Error};
    match error {
        Error::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        ) => ClientError::ServerCertificateExpired,
        Error::InvalidCertificate(Certificate::NotValidForName | Certificate::NotValidForNameContext { .. }) => {
            ClientError::WrongName
        }
        Error::InvalidCertificate(_) => ClientError::UntrustedServer,
        _ => ClientError::Tls,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let all = ["10.0.0.1:1", "10.0.0.2:1", "[::1]:1"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(interleave(all), ["[::1]:1", "10.0.0.1:1", "10.0.0.2:1"].map(|text| text.parse().unwrap()));
    }

    #[test]
    fn a_dead_address_does_not_stop_the_next() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let addresses = ["::1".parse().unwrap(), "127.0.0.1".parse().unwrap()];
            connect("unused", port, &addresses).await.unwrap();
            drop(listener);
            assert_eq!(connect("unused", port, &addresses[1..]).await.unwrap_err(), ClientError::Refused);
        });
    }
}
