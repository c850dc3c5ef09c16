//! Who is at the other end of a connection, and behaves as no server of ours does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
};

const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// A receiver that answers every request with 500 and this body; its URL.
pub(crate) fn receiver_answering(body: &'static str) -> String {
    let (listener, url) = listen();
    thread::spawn(move || {
        for client in listener.incoming() {
            answer(client.unwrap(), "500 Broken", body);
        }
    });
    url
}

/// A server that answers the first call with a page that is not the last, and no other; its URL.
pub(crate) fn server_breaking_off_after(page: &'static str) -> String {
    let (listener, url) = listen();
    thread::spawn(move || answer(listener.accept().unwrap().0, "200 OK", page));
    url
}

/// Hands everything on to a server but the answer to the registration of an endpoint; its URL.
pub(crate) fn proxy_losing_the_registration(server: &str) -> String {
    let server = server.replace("http://", "");
    let (listener, url) = listen();
    thread::spawn(move || {
        for client in listener.incoming() {
            hand_on(client.unwrap(), TcpStream::connect(&server).unwrap());
        }
    });
    url
}

fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

fn answer(mut client: TcpStream, status: &str, body: &str) {
    let _ = client.read(&mut vec![0; REQUEST_BYTES_MAX]);
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let _ = client.write_all(&[head.as_bytes(), body.as_bytes()].concat());
    // Closed with something unread it would be reset, and its answer perhaps lost.
    let _ = io::copy(&mut client, &mut io::sink());
}

fn hand_on(mut client: TcpStream, mut server: TcpStream) {
    let mut request = vec![0; REQUEST_BYTES_MAX];
    let read = client.read(&mut request).unwrap();
    server.write_all(&request[..read]).unwrap();
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || io::copy(&mut from, &mut to));
    if request.starts_with(b"POST /v1/endpoints ") {
        let _ = server.read(&mut request);
        let _ = client.shutdown(Shutdown::Both);
        return;
    }
    thread::spawn(move || io::copy(&mut server, &mut client));
}
