//! The thin skin: the module `portico._gateway`. Exactly the classes of portico/_gateway.pyi; every call that may wait
//! or take locks releases the interpreter.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::io::client::{ClientTunnel as Tunnel, StartError};
use crate::io::gateway::{Gateway as Inner, GatewayDescriptors};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn start_error(error: StartError) -> PyErr {
    match error {
        StartError::Refused(refused) => PyValueError::new_err(refused.to_string()),
        StartError::Io(error) => PyOSError::new_err((error.raw_os_error(), error.to_string())),
    }
}

/// Takes descriptors over from the interpreter.
fn own(fds: &[RawFd]) -> PyResult<Vec<OwnedFd>> {
    for &fd in fds {
        // SAFETY: F_GETFD only asks whether the number is a descriptor.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            return Err(PyOSError::new_err((libc::EBADF, format!("{fd} is not an open descriptor"))));
        }
    }
    // SAFETY: they are open, and the caller gives them away.
    Ok(fds.iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect())
}

fn seconds(timeout: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(timeout).map_err(|error| PyValueError::new_err(format!("timeout: {error}")))
}

fn closed() -> PyErr {
    PyValueError::new_err("it is closed")
}

#[pyclass(frozen, module = "portico._gateway")]
struct Gateway(Mutex<Option<std::sync::Arc<Inner>>>);

impl Gateway {
    fn inner(&self) -> PyResult<std::sync::Arc<Inner>> {
        self.0.lock().clone().ok_or_else(closed)
    }
}

#[pymethods]
impl Gateway {
    #[new]
    #[pyo3(signature = (config, *, tunnel_fds, nat64_fds, listener_fds, dns_udp_fds, dns_tcp_fds))]
    #[allow(clippy::needless_pass_by_value)] // what the interpreter hands over
    fn new(
        py: Python<'_>,
        config: &str,
        tunnel_fds: Vec<RawFd>,
        nat64_fds: Vec<RawFd>,
        listener_fds: Vec<RawFd>,
        dns_udp_fds: Vec<RawFd>,
        dns_tcp_fds: Vec<RawFd>,
    ) -> PyResult<Self> {
        let descriptors = GatewayDescriptors {
            tunnel: own(&tunnel_fds)?,
            nat64: own(&nat64_fds)?,
            listeners: own(&listener_fds)?,
            dns_udp: own(&dns_udp_fds)?,
            dns_tcp: own(&dns_tcp_fds)?,
        };
        let inner = py.detach(|| Inner::start(config, descriptors)).map_err(start_error)?;
        Ok(Self(Mutex::new(Some(std::sync::Arc::new(inner)))))
    }

    fn configure(&self, py: Python<'_>, config: &str) -> PyResult<()> {
        let inner = self.inner()?;
        py.detach(|| inner.configure(config)).map_err(|refused| PyValueError::new_err(refused.to_string()))
    }

    fn next_events(&self, py: Python<'_>, timeout: f64) -> PyResult<Vec<String>> {
        let (inner, timeout) = (self.inner()?, seconds(timeout)?);
        Ok(py.detach(|| inner.next_events(timeout)))
    }

    fn answer(&self, py: Python<'_>, request: u64, status: u16, content_type: String, body: Vec<u8>) -> PyResult<bool> {
        if !(200..600).contains(&status) || content_type.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(PyValueError::new_err("an answer has a status from 200 to 599 and a printable content type"));
        }
        let inner = self.inner()?;
        Ok(py.detach(|| inner.answer(request, status, content_type, body)))
    }

    #[pyo3(signature = (after = 0, limit = usize::MAX))]
    fn sessions(&self, py: Python<'_>, after: u64, limit: usize) -> PyResult<String> {
        let inner = self.inner()?;
        Ok(py.detach(|| inner.sessions(after, limit)))
    }

    #[allow(clippy::needless_pass_by_value)] // what the interpreter hands over
    fn disconnect(&self, py: Python<'_>, sessions: Vec<u64>) -> PyResult<usize> {
        let inner = self.inner()?;
        Ok(py.detach(|| inner.disconnect(&sessions)))
    }

    fn stats(&self, py: Python<'_>) -> PyResult<String> {
        let inner = self.inner()?;
        Ok(py.detach(|| inner.stats()))
    }

    fn turned(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let (inner, timeout) = (self.inner()?, seconds(timeout)?);
        Ok(py.detach(|| inner.turned(timeout)))
    }

    #[allow(clippy::needless_pass_by_value)] // what the interpreter hands over
    fn replace_dns_sockets(&self, py: Python<'_>, udp_fds: Vec<RawFd>, tcp_fds: Vec<RawFd>) -> PyResult<()> {
        let (udp, tcp) = (own(&udp_fds)?, own(&tcp_fds)?);
        let inner = self.inner()?;
        py.detach(|| inner.replace_dns_sockets(udp, tcp)).map_err(|error| start_error(StartError::Io(error)))
    }

    fn dns64_flush(&self, py: Python<'_>, request: &str) -> PyResult<String> {
        let inner = self.inner()?;
        py.detach(|| inner.dns64_flush(request)).map_err(|refused| PyValueError::new_err(refused.to_string()))
    }

    fn dns64_query(&self, py: Python<'_>, request: &str) -> PyResult<String> {
        let inner = self.inner()?;
        py.detach(|| inner.dns64_query(request)).map_err(|refused| PyValueError::new_err(refused.to_string()))
    }

    fn nat64_sessions(&self, py: Python<'_>, question: &str) -> PyResult<String> {
        let inner = self.inner()?;
        py.detach(|| inner.nat64_sessions(question)).map_err(|refused| PyValueError::new_err(refused.to_string()))
    }

    fn nat64_bindings(&self, py: Python<'_>, question: &str) -> PyResult<String> {
        let inner = self.inner()?;
        py.detach(|| inner.nat64_bindings(question)).map_err(|refused| PyValueError::new_err(refused.to_string()))
    }

    fn nat64_open(&self, py: Python<'_>, question: &str) -> PyResult<String> {
        let inner = self.inner()?;
        py.detach(|| inner.nat64_open(question)).map_err(|refused| PyValueError::new_err(refused.to_string()))
    }

    fn close(&self, py: Python<'_>) {
        let inner = self.0.lock().take();
        py.detach(|| {
            if let Some(inner) = inner {
                inner.close();
            }
        });
    }
}

#[pyclass(frozen, module = "portico._gateway")]
struct ClientTunnel(Mutex<Option<std::sync::Arc<Tunnel>>>);

impl ClientTunnel {
    fn inner(&self) -> PyResult<std::sync::Arc<Tunnel>> {
        self.0.lock().clone().ok_or_else(closed)
    }
}

#[pymethods]
impl ClientTunnel {
    #[new]
    #[pyo3(signature = (config, *, tunnel_fd))]
    fn new(py: Python<'_>, config: &str, tunnel_fd: RawFd) -> PyResult<Self> {
        let mut fds = own(&[tunnel_fd])?;
        let inner = py.detach(|| Tunnel::start(config, fds.remove(0))).map_err(start_error)?;
        Ok(Self(Mutex::new(Some(std::sync::Arc::new(inner)))))
    }

    fn configure(&self, py: Python<'_>, config: &str) -> PyResult<()> {
        let inner = self.inner()?;
        py.detach(|| inner.configure(config)).map_err(|refused| PyValueError::new_err(refused.to_string()))
    }

    fn next_events(&self, py: Python<'_>, timeout: f64) -> PyResult<Vec<String>> {
        let (inner, timeout) = (self.inner()?, seconds(timeout)?);
        Ok(py.detach(|| inner.next_events(timeout)))
    }

    fn redial(&self) -> PyResult<()> {
        self.inner()?.redial();
        Ok(())
    }

    fn status(&self, py: Python<'_>) -> PyResult<String> {
        let inner = self.inner()?;
        Ok(py.detach(|| inner.status()))
    }

    fn close(&self, py: Python<'_>) {
        let inner = self.0.lock().take();
        py.detach(|| {
            if let Some(inner) = inner {
                inner.close();
            }
        });
    }
}

/// Leaves this process the system calls of a running gateway, all threads, for good.
#[pyfunction]
fn confine() -> PyResult<()> {
    crate::io::confine::confine().map_err(|error| PyOSError::new_err(error.to_string()))
}

#[pymodule]
fn _gateway(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Gateway>()?;
    module.add_class::<ClientTunnel>()?;
    module.add_function(wrap_pyfunction!(confine, module)?)
}
