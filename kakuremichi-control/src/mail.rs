//! Mail to people, over SMTP (RFC 5321).
//!
//! Nobody waits for a mail server: what is to be sent stands in a short queue, from which one task sends, a few at
//! a time. What a server refuses for now is tried again a few times, and then given up with a line in the log;
//! whoever asked for the mail asks again. A mail that waits for its next attempt holds up no other.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use kakuremichi_core::{email::EmailAddress, secret::Secret};
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
};
use tokio::{
    sync::{Mutex, Semaphore, mpsc},
    time::{sleep, timeout},
};

/// Mails that wait to be sent. One more is dropped, and the log says so.
pub const MAX_WAITING_MAILS: usize = 256;
/// Mails that are on their way, or wait for their next attempt. The queue is read again when one is done.
pub const MAX_MAILS_UNDER_WAY: usize = 64;
/// Mails that the server is given at once.
const MAX_SENDING: usize = 4;
/// How long a mail server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take for one mail.
const ATTEMPT: Duration = Duration::from_secs(30);
/// The pauses before further attempts.
const PAUSES: [Duration; 3] = [
    Duration::from_secs(2),
    Duration::from_secs(10),
    Duration::from_secs(60),
];

/// Why no mail can be sent with these settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailError {
    /// The URL is not one of a mail server.
    #[error("the URL of a mail server is `smtps://user:password@host` or `smtp://host:25?tls=required`")]
    Url(#[source] lettre::transport::smtp::Error),
    /// Mail, and the password of the server, would go over a network in the clear.
    #[error(
        "mail is sent in the clear only to a server on this machine: use `smtps://`, or add `?tls=required`"
    )]
    Plain,
    /// The sender is no address.
    #[error("the sender is an address such as `kakuremichi <no-reply@example.net>`")]
    Sender(#[source] lettre::address::AddressError),
}

/// Why a mail was not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MailFailure {
    /// There is no server.
    #[error("this Control sends no mail: whoever runs it sets a mail server with `--smtp-url`")]
    NoServer,
    /// It is no mail.
    #[error("the mail cannot be written")]
    Mail(#[from] lettre::error::Error),
    /// The server did not take it.
    #[error("the mail server did not take it")]
    Server(#[from] lettre::transport::smtp::Error),
    /// The server takes too long.
    #[error("the mail server took longer than {} seconds", ATTEMPT.as_secs())]
    Slow,
}

impl MailFailure {
    /// Whether the server refused for good.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::Server(error) if error.is_permanent())
    }
}

/// A mail server, and who the mails are from. Clones share the queue.
#[derive(Clone)]
pub struct Mailer(Arc<Inner>);

struct Inner {
    server: AsyncSmtpTransport<Tokio1Executor>,
    sender: Mailbox,
    queue: mpsc::Sender<Mail>,
    waiting: Mutex<mpsc::Receiver<Mail>>,
    sending: Semaphore,
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailer")
            .field("sender", &self.0.sender)
            .finish_non_exhaustive()
    }
}

/// A mail to be sent: plain text, since nothing in it needs more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mail {
    pub(crate) to: EmailAddress,
    pub(crate) subject: &'static str,
    pub(crate) text: String,
}

impl Mailer {
    /// Sends by the server at `url`, as `sender`. The URL is `smtps://user:password@host` (TLS from the start, port
    /// 465), or `smtp://user:password@host?tls=required` (STARTTLS, port 587); `smtp://host` without `tls` sends in
    /// the clear, for a server on this machine. What is special in user or password is percent-encoded. Nothing is
    /// sent before there is something to be sent.
    ///
    /// # Errors
    /// When one of the two makes no sense.
    pub fn smtp(url: &Secret<String>, sender: &str) -> Result<Self, MailError> {
        let server = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose()).map_err(MailError::Url)?;
        if !is_protected(url.expose()) {
            return Err(MailError::Plain);
        }
        let (queue, waiting) = mpsc::channel(MAX_WAITING_MAILS);
        Ok(Self(Arc::new(Inner {
            server: server.timeout(Some(PATIENCE)).build(),
            sender: sender.parse().map_err(MailError::Sender)?,
            queue,
            waiting: Mutex::new(waiting),
            sending: Semaphore::new(MAX_SENDING),
        })))
    }

    /// Has a mail sent.
    pub(crate) fn send(&self, mail: Mail) {
        if let Err(error) = self.0.queue.try_send(mail) {
            tracing::error!(error = &error as &dyn std::error::Error, "a mail is dropped");
        }
    }

    /// Sends a mail at once, and once.
    pub(crate) async fn send_now(&self, mail: &Mail) -> Result<(), MailFailure> {
        let message = self.message(mail)?;
        let _slot = self.0.sending.acquire().await;
        let sent = timeout(ATTEMPT, self.0.server.send(message)).await;
        sent.map_err(|_| MailFailure::Slow)??;
        Ok(())
    }

    /// Sends what is to be sent, for ever.
    pub(crate) async fn run(self) {
        // Only one clone runs.
        let mut waiting = self.0.waiting.lock().await;
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                mail = waiting.recv(), if under_way.len() < MAX_MAILS_UNDER_WAY => match mail {
                    Some(mail) => under_way.push(self.deliver(mail)),
                    None => return,
                },
                Some(()) = under_way.next() => {}
            }
        }
    }

    async fn deliver(&self, mail: Mail) {
        let message = match self.message(&mail) {
            Ok(message) => message,
            Err(error) => {
                return tracing::error!(
                    error = &error as &dyn std::error::Error,
                    subject = mail.subject,
                    "no mail"
                );
            }
        };
        for pause in PAUSES.map(Some).into_iter().chain([None]) {
            let sent = {
                let _slot = self.0.sending.acquire().await;
                timeout(ATTEMPT, self.0.server.send(message.clone())).await
            };
            let error = match sent {
                Ok(Ok(_)) => return tracing::info!(subject = mail.subject, "a mail was sent"),
                Ok(Err(error)) => Some(error),
                Err(_) => None,
            };
            let hopeless = error
                .as_ref()
                .is_some_and(lettre::transport::smtp::Error::is_permanent);
            let pause = pause.filter(|_| !hopeless);
            failed(&mail, error.as_ref(), pause);
            match pause {
                Some(pause) => sleep(pause).await,
                None => return,
            }
        }
    }

    fn message(&self, mail: &Mail) -> Result<Message, lettre::error::Error> {
        let to = Mailbox::new(
            None,
            mail.to
                .as_str()
                .parse()
                .map_err(|_| lettre::error::Error::MissingTo)?,
        );
        Message::builder()
            .from(self.0.sender.clone())
            .to(to)
            .subject(mail.subject)
            .header(ContentType::TEXT_PLAIN)
            .body(mail.text.clone())
    }
}

/// Says that an attempt failed, or, without an error, took too long, and when the next one is.
fn failed(mail: &Mail, error: Option<&lettre::transport::smtp::Error>, pause: Option<Duration>) {
    let error = error.map(|error| error as &dyn std::error::Error);
    match pause {
        Some(pause) => tracing::warn!(
            error,
            subject = mail.subject,
            ?pause,
            "a mail is sent again later"
        ),
        None => tracing::error!(error, subject = mail.subject, "a mail could not be sent"),
    }
}

/// Whether nobody between here and the mail server can read what is sent: by TLS that cannot be taken away, or since
/// there is nothing between.
fn is_protected(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("smtp://") else {
        return url.starts_with("smtps://");
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    if query.split('&').any(|pair| pair == "tls=required") {
        return true;
    }
    let place = place.split('/').next().unwrap_or_default();
    let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// Takes a mail, and gives back whose it is.
    async fn take(socket: TcpStream, taken: mpsc::Sender<String>) {
        let mut socket = BufReader::new(socket);
        socket.write_all(b"220 sink\r\n").await.unwrap();
        let (mut line, mut to, mut data) = (String::new(), String::new(), false);
        loop {
            line.clear();
            if socket.read_line(&mut line).await.unwrap() == 0 {
                return;
            }
            let answer = match line.trim_end() {
                "." => {
                    data = false;
                    taken.send(std::mem::take(&mut to)).await.unwrap();
                    "250 taken"
                }
                _ if data => continue,
                "DATA" => {
                    data = true;
                    "354 go on"
                }
                "QUIT" => return,
                command => {
                    if let Some(rest) = command.strip_prefix("RCPT TO:<") {
                        to = rest.trim_end_matches('>').to_owned();
                    }
                    "250 fine"
                }
            };
            socket
                .write_all(format!("{answer}\r\n").as_bytes())
                .await
                .unwrap();
        }
    }

    /// A server that keeps a mail waiting keeps others waiting only when it does so with several at once.
    #[tokio::test]
    async fn a_mail_that_hangs_holds_up_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let (taken, mut mails) = mpsc::channel(8);
        tokio::spawn(async move {
            // The first connection is never answered.
            let (_silent, _) = listener.accept().await.unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(take(socket, taken.clone()));
            }
        });
        let mailer = Mailer::smtp(&Secret::new(url), "k@example.net").unwrap();
        let mail = |to: &str| Mail {
            to: to.parse().unwrap(),
            subject: "a test",
            text: "hello".to_owned(),
        };
        tokio::spawn(mailer.clone().run());
        for n in 0..4 {
            mailer.send(mail(&format!("user-{n}@example.net")));
        }
        let mut reached = Vec::new();
        for _ in 0..3 {
            let to = timeout(ATTEMPT / 3, mails.recv()).await;
            reached.push(to.expect("it does not wait for the one that hangs").unwrap());
        }
        reached.sort();
        reached.dedup();
        assert_eq!(reached.len(), 3);
    }

    #[test]
    fn nothing_goes_over_a_network_in_the_clear() {
        let mailer = |url: &str| Mailer::smtp(&Secret::new(url.to_owned()), "k@example.net").map(|_| ());
        for good in [
            "smtps://u:p@mail.example",
            "smtp://u:p@mail.example:587?tls=required",
            "smtp://127.0.0.1:2525",
            "smtp://[::1]:25",
            "smtp://localhost",
        ] {
            assert!(mailer(good).is_ok(), "{good}");
        }
        for bad in [
            "smtp://mail.example",
            "smtp://127.0.0.1@mail.example",
            "smtp://u:p@mail.example?tls=opportunistic",
            "smtp://localhost.example:25",
        ] {
            assert!(matches!(mailer(bad), Err(MailError::Plain)), "{bad}");
        }
    }
}
