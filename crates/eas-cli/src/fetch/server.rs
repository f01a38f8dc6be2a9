//! A web server on this machine that behaves as badly as it is told.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// How many were asked before it.
    pub(crate) number: usize,
    pub(crate) path: String,
    /// The first byte that is wanted.
    pub(crate) from: Option<usize>,
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: &'static str,
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
    pub(crate) then: Then,
}

/// What follows an answer's body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    Close,
    /// Nothing, while the connection stays.
    Stall,
    /// The body again and again.
    Endless,
}

impl Reply {
    /// An answer without a body.
    pub(crate) fn status(status: &'static str) -> Self {
        let headers = vec!["Content-Length: 0".to_owned()];
        Reply { status, headers, body: Vec::new(), then: Then::Close }
    }

    /// The whole of a file, whatever part was wanted.
    pub(crate) fn whole(file: &[u8]) -> Self {
        let headers = vec![format!("Content-Length: {}", file.len())];
        Reply { status: "200 OK", headers, body: file.to_vec(), then: Then::Close }
    }

    /// The part of a file that was wanted.
    pub(crate) fn of(file: &[u8], request: &Request) -> Self {
        let Some(from) = request.from else { return Reply::whole(file) };
        if from >= file.len() {
            return Reply::status("416 Range Not Satisfiable");
        }
        let range = format!("Content-Range: bytes {from}-{}/{}", file.len() - 1, file.len());
        let headers = vec![format!("Content-Length: {}", file.len() - from), range];
        let body = file[from..].to_vec();
        Reply { status: "206 Partial Content", headers, body, then: Then::Close }
    }

    /// The same, of which no more than so many bytes come.
    pub(crate) fn cut(mut self, bytes: usize, then: Then) -> Self {
        self.body.truncate(bytes);
        Reply { then, ..self }
    }
}

/// The server; its threads end with the process.
pub(crate) struct Server {
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn new(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (known, answer) = (requests.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (known, answer) = (known.clone(), answer.clone());
                // A client that goes away is no failure of a test.
                std::thread::spawn(move || serve(stream, &known, answer.as_ref()));
            }
        });
        Server { url, requests }
    }

    /// What was asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The first bytes that were wanted so far.
    pub(crate) fn ranges(&self) -> Vec<Option<usize>> {
        self.requests().into_iter().map(|request| request.from).collect()
    }
}

fn serve(
    stream: TcpStream,
    known: &Mutex<Vec<Request>>,
    answer: &dyn Fn(&Request) -> Reply,
) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut from = None;
    for line in lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let lower = line.to_ascii_lowercase();
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            from = range.strip_suffix('-').and_then(|from| from.parse().ok());
        }
    }
    let request = {
        let mut known = known.lock().unwrap();
        let number = known.len();
        known.push(Request { number, path, from });
        known.last().cloned()?
    };
    let Reply { status, headers, body, then } = answer(&request);
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n").ok()?;
    headers.iter().try_for_each(|header| write!(stream, "{header}\r\n").ok())?;
    write!(stream, "\r\n").ok()?;
    stream.write_all(&body).ok()?;
    match then {
        Then::Close => {}
        // Until the client has gone.
        Then::Stall => _ = std::io::copy(&mut stream, &mut std::io::sink()),
        Then::Endless => while stream.write_all(&body).is_ok() {},
    }
    Some(())
}
