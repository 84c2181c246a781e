//! Socket addresses in the kernel's layout, and the few socket calls that are made directly.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Result;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

/// How many connections may wait for accept; the kernel lowers it to `net.core.somaxconn`.
const LISTEN_BACKLOG: i32 = 4096;

/// An address as the kernel reads it. It is boxed while a connect is in flight, so that it does not move.
#[derive(Debug)]
pub(crate) enum KernelAddress {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl KernelAddress {
    pub(crate) fn new(address: SocketAddr) -> KernelAddress {
        match address {
            SocketAddr::V4(address) => KernelAddress::V4(libc::sockaddr_in {
                sin_family: AddressFamily::INET.as_raw(),
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(address) => KernelAddress::V6(libc::sockaddr_in6 {
                sin6_family: AddressFamily::INET6.as_raw(),
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo().to_be(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            }),
        }
    }

    pub(crate) fn pointer(&self) -> *const libc::sockaddr {
        match self {
            KernelAddress::V4(address) => std::ptr::from_ref(address).cast(),
            KernelAddress::V6(address) => std::ptr::from_ref(address).cast(),
        }
    }

    pub(crate) fn length(&self) -> libc::socklen_t {
        let length = match self {
            KernelAddress::V4(_) => size_of::<libc::sockaddr_in>(),
            KernelAddress::V6(_) => size_of::<libc::sockaddr_in6>(),
        };
        libc::socklen_t::try_from(length).expect("invariant: a socket address is a few dozen bytes")
    }
}

/// A TCP socket with TCP_NODELAY set. It is a blocking one on purpose: on a non-blocking socket io_uring answers
/// EAGAIN instead of waiting for readiness itself.
pub(crate) fn stream_socket(address: SocketAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    net::sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

/// A listening socket and the address it is bound to. Accepted sockets inherit its TCP_NODELAY.
pub(crate) fn listening_socket(address: SocketAddr, reuse_port: bool) -> Result<(OwnedFd, SocketAddr)> {
    let socket = stream_socket(address)?;
    net::sockopt::set_socket_reuseaddr(&socket, true)?;
    if reuse_port {
        net::sockopt::set_socket_reuseport(&socket, true)?;
    }
    net::bind(&socket, &address)?;
    net::listen(&socket, LISTEN_BACKLOG)?;
    let bound = SocketAddr::try_from(net::getsockname(&socket)?)?;
    Ok((socket, bound))
}

/// The address of the other side; an error when it is already gone.
pub(crate) fn peer_address(socket: &OwnedFd) -> Result<SocketAddr> {
    match net::getpeername(socket)? {
        Some(address) => SocketAddr::try_from(address),
        None => Err(rustix::io::Errno::NOTCONN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_bytes_in_network_order() {
        let KernelAddress::V4(raw) = KernelAddress::new("1.2.3.4:258".parse().unwrap()) else {
            panic!("an IPv4 address became something else")
        };
        assert_eq!(raw.sin_addr.s_addr.to_ne_bytes(), [1, 2, 3, 4]);
        assert_eq!(raw.sin_port.to_ne_bytes(), [1, 2]);
        let KernelAddress::V6(raw) = KernelAddress::new("[::1]:258".parse().unwrap()) else {
            panic!("an IPv6 address became something else")
        };
        assert_eq!(raw.sin6_addr.s6_addr[15], 1);
        assert_eq!(raw.sin6_port.to_ne_bytes(), [1, 2]);
    }
}
