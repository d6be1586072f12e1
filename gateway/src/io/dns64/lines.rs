//! Connections to servers: kept open for a while, many questions on each, answers in any order (RFC 7766 section 6.2).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::Shell;
use crate::core::dns64::message::{HEADER, u16_at};

/// Connections to one server, and questions on one of them.
const MAX_LINES: usize = 8;
const MAX_QUESTIONS: usize = 128;
/// How long a connection with questions may be silent and still get new ones: they might wait behind what never comes.
const STUCK: Duration = Duration::from_millis(500);
/// Messages in a row that answer nothing asked on the connection, after which it is ended: more than could be late answers.
const MAX_STRAY: usize = 2 * MAX_QUESTIONS;
/// How long a connection without questions stays open, and how long making one may take.
const IDLE: Duration = Duration::from_secs(10);

/// A question on its way.
struct Question {
    attempt: u64,
    bytes: Vec<u8>,
    /// It was on a connection before that ended.
    again: bool,
}

/// One connection.
pub(super) struct Line {
    server: SocketAddr,
    queue: mpsc::UnboundedSender<Vec<u8>>,
    /// By message id.
    questions: RefCell<HashMap<u16, Question>>,
    /// It has brought an answer: a server that ends it now merely found it idle.
    proven: Cell<bool>,
    /// A question was given up on it: not for new ones until it brings something.
    suspect: Cell<bool>,
    /// When its last message came, or when it got a question after having had none.
    heard: Cell<Instant>,
    ended: Cell<bool>,
    emptied: Notify,
}

/// All connections to servers.
#[derive(Default)]
pub(super) struct Lines(RefCell<HashMap<SocketAddr, Vec<Rc<Line>>>>);

impl Lines {
    /// Sends a question, by a new connection if that is asked for and possible; `None` when there are as many as there may be.
    pub(super) fn ask(
        shell: &Rc<Shell>,
        server: SocketAddr,
        attempt: u64,
        bytes: Vec<u8>,
        new: bool,
    ) -> Option<(Rc<Line>, u16)> {
        Self::place(shell, server, Question { attempt, bytes, again: false }, new)
    }

    fn place(shell: &Rc<Shell>, server: SocketAddr, question: Question, new: bool) -> Option<(Rc<Line>, u16)> {
        let id = u16_at(&question.bytes, 0);
        let mut lines = shell.lines.0.borrow_mut();
        let lines = lines.entry(server).or_default();
        let full = lines.len() >= MAX_LINES;
        let good = |line: &&Rc<Line>| line.takes(id) && !line.is_doubtful();
        let mut usable = if new && !full { None } else { lines.iter().find(good).cloned() };
        if full {
            // Better than none.
            usable = usable.or_else(|| lines.iter().find(|line| line.takes(id)).cloned());
        }
        let line = match usable {
            Some(line) => {
                shell.counters.borrow_mut().upstream_connections_reused += 1;
                line
            }
            None if lines.len() >= MAX_LINES => return None,
            None => {
                let (line, queue) = Line::new(server);
                shell.counters.borrow_mut().upstream_connections += 1;
                lines.push(Rc::clone(&line));
                tokio::task::spawn_local(Rc::clone(&line).run(Rc::clone(shell), queue));
                line
            }
        };
        // The receiver lives as long as the line is in the list.
        _ = line.queue.send(question.bytes.clone());
        let mut questions = line.questions.borrow_mut();
        if questions.is_empty() {
            line.heard.set(Instant::now());
        }
        questions.insert(id, question);
        drop(questions);
        Some((line, id))
    }

    pub(super) fn len(&self) -> usize {
        self.0.borrow().values().map(Vec::len).sum()
    }

    fn remove(&self, line: &Rc<Line>) {
        let mut all = self.0.borrow_mut();
        if let Some(lines) = all.get_mut(&line.server) {
            lines.retain(|other| !Rc::ptr_eq(other, line));
            if lines.is_empty() {
                all.remove(&line.server);
            }
        }
    }
}

impl Line {
    fn new(server: SocketAddr) -> (Rc<Self>, mpsc::UnboundedReceiver<Vec<u8>>) {
        let (queue, receiver) = mpsc::unbounded_channel();
        let line = Self {
            server,
            queue,
            questions: RefCell::default(),
            proven: Cell::new(false),
            suspect: Cell::new(false),
            heard: Cell::new(Instant::now()),
            ended: Cell::new(false),
            emptied: Notify::new(),
        };
        (Rc::new(line), receiver)
    }

    fn takes(&self, id: u16) -> bool {
        let questions = self.questions.borrow();
        !self.ended.get() && questions.len() < MAX_QUESTIONS && !questions.contains_key(&id)
    }

    /// A question put on it may not find an answer there.
    fn is_doubtful(&self) -> bool {
        self.suspect.get() || (!self.questions.borrow().is_empty() && self.heard.get().elapsed() > STUCK)
    }

    /// Nothing more is expected for a question.
    pub(super) fn forget(&self, id: u16, attempt: u64) {
        let mut questions = self.questions.borrow_mut();
        if questions.get(&id).is_some_and(|question| question.attempt == attempt) {
            questions.remove(&id);
            self.suspect.set(true);
            if questions.is_empty() {
                self.emptied.notify_one();
            }
        }
    }

    async fn run(self: Rc<Self>, shell: Rc<Shell>, queue: mpsc::UnboundedReceiver<Vec<u8>>) {
        // Whatever ended it, what is left to do is the same.
        let _ = self.serve(&shell, queue).await;
        self.ended.set(true);
        shell.lines.remove(&self);
        let questions = self.questions.take();
        for (_, question) in questions {
            let (attempt, server) = (question.attempt, self.server);
            // A server may end an idle connection at any time, also in the moment when a question is sent on it.
            let again = self.proven.get() && !question.again;
            let placed =
                if again { Lines::place(&shell, server, Question { again: true, ..question }, false) } else { None };
            match placed {
                Some((line, id)) => shell.moved(attempt, line, id),
                None => shell.unreachable(attempt),
            }
        }
    }

    async fn serve(&self, shell: &Rc<Shell>, queue: mpsc::UnboundedReceiver<Vec<u8>>) -> io::Result<()> {
        let stream = timeout(IDLE, TcpStream::connect(self.server)).await??;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        tokio::select! {
            result = self.read(shell, reader) => result,
            result = write(writer, queue) => result,
            () = self.idle() => Ok(()),
        }
    }

    async fn read(&self, shell: &Rc<Shell>, mut reader: OwnedReadHalf) -> io::Result<()> {
        let mut answer = Vec::new();
        let mut stray = 0;
        loop {
            let length = usize::from(reader.read_u16().await?);
            if length < HEADER {
                // Whatever follows, it is no DNS.
                shell.counters.borrow_mut().upstream_connections_broken += 1;
                return Err(io::ErrorKind::InvalidData.into());
            }
            answer.clear();
            // Memory for what has come, not for what is promised.
            let got = (&mut reader).take(length as u64).read_to_end(&mut answer).await?;
            if got < length {
                shell.counters.borrow_mut().upstream_connections_broken += 1;
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.suspect.set(false);
            self.heard.set(Instant::now());
            let id = u16_at(&answer, 0);
            let found = self.questions.borrow_mut().remove(&id);
            let Some(question) = found else {
                shell.counters.borrow_mut().upstream_unasked += 1;
                stray += 1;
                if stray > MAX_STRAY {
                    shell.counters.borrow_mut().upstream_connections_broken += 1;
                    return Err(io::ErrorKind::InvalidData.into());
                }
                continue;
            };
            stray = 0;
            self.proven.set(true);
            let attempt = question.attempt;
            shell.response(attempt, self.server, &answer);
            // Had it been the answer, the attempt would be over and this word about it unheard.
            shell.unreachable(attempt);
            if self.questions.borrow().is_empty() {
                self.emptied.notify_one();
            }
            answer.shrink_to(4096);
        }
    }

    /// Ends when there has been no question for a while, or none is left on a connection that is not trusted.
    async fn idle(&self) {
        loop {
            if self.questions.borrow().is_empty() {
                if self.suspect.get() {
                    return;
                }
                if timeout(IDLE, self.emptied.notified()).await.is_err() && self.questions.borrow().is_empty() {
                    return;
                }
            } else {
                self.emptied.notified().await;
            }
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) -> io::Result<()> {
    let mut message = Vec::new();
    while let Some(bytes) = queue.recv().await {
        message.clear();
        message.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        message.extend_from_slice(&bytes);
        writer.write_all(&message).await?;
    }
    Ok(())
}
