//! The listening part: sockets, TLS, starting and stopping.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use glm_runtime::{Engine, Event, Request, SamplingParams};
use hyper_util::rt::TokioTimer;
use tokio::sync::watch;

use crate::app::App;
use crate::config::ServerConfig;
use crate::traces::Traces;
use crate::{limits, routes};

/// Why a server does not start or went down.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", hint(source))]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A server that everybody could use.
    #[error(
        "{address} can be reached from other machines: give --api-key, or --insecure-no-auth to let \
         everybody in"
    )]
    Open {
        /// What was asked for.
        address: SocketAddr,
    },
    /// Certificate or key cannot be used.
    #[error("cannot use the certificate {certificate} with the key {key}: {source}")]
    Tls {
        /// File of the certificates.
        certificate: String,
        /// File of the key.
        key: String,
        /// What is wrong.
        source: io::Error,
    },
    /// There is no collector at this address.
    #[error("cannot send traces to {endpoint}: {reason}")]
    Traces {
        /// What was asked for.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// The model did not answer.
    #[error("the model does not answer: {reason}")]
    Model {
        /// Why.
        reason: String,
    },
    /// The system refused something.
    #[error("the server stopped: {0}")]
    Io(#[from] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another server has the port: choose one with --port)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 are the administrator's)",
        _ => "",
    }
}

/// A server that listens, at first without a model.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    address: SocketAddr,
    runtime: tokio::runtime::Runtime,
    shutdown: Shutdown,
}

/// Asks a server to stop. Clones ask the same one.
#[derive(Debug, Clone)]
pub struct Shutdown(Arc<watch::Sender<u8>>);

impl Shutdown {
    /// The first time: no more requests are taken and those in flight end. The second: all end at once.
    pub fn ask(&self) {
        self.0.send_modify(|asked| *asked = asked.saturating_add(1));
    }
}

impl Server {
    /// Listens. Requests for answers are refused with 503 until a model is
    /// loaded by [`Server::run`].
    ///
    /// # Errors
    /// [`ServeError::Open`], [`ServeError::Listen`] and [`ServeError::Traces`].
    pub fn bind(config: ServerConfig) -> Result<Self, ServeError> {
        let address = config.address;
        if !address.ip().is_loopback() && config.keys.is_empty() && !config.insecure_no_auth {
            return Err(ServeError::Open { address });
        }
        let listen = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("glm-http")
            .enable_all()
            .build()?;
        let traces = config.otlp_endpoint.as_deref().map(|endpoint| {
            let wrong = |reason| ServeError::Traces { endpoint: endpoint.to_owned(), reason };
            Traces::new(endpoint).map_err(wrong)
        });
        let app = Arc::new(App::new(config, traces.transpose()?));
        let shutdown = Shutdown(Arc::new(watch::Sender::new(0)));
        Ok(Server { app, listener, address, runtime, shutdown })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What stops it.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Answers requests while `load` makes the engine, and with it then, until it is asked to stop.
    /// `ready` is called once the model has generated a token.
    ///
    /// # Errors
    /// What `load` says, [`ServeError::Tls`], [`ServeError::Model`] and [`ServeError::Io`].
    pub fn run<E: From<ServeError>>(
        self,
        load: impl FnOnce() -> Result<Engine, E>,
        ready: impl FnOnce(&Engine),
    ) -> Result<(), E> {
        let Server { app, listener, runtime, shutdown, .. } = self;
        let handle = Handle::new();
        let tls = app.config.tls.clone();
        let acceptor = match tls {
            None => None,
            Some((certificate, key)) => {
                // It stays the one that is there already, if any.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let config = runtime.block_on(RustlsConfig::from_pem_file(&certificate, &key));
                Some(config.map_err(|source| ServeError::Tls {
                    certificate: certificate.display().to_string(),
                    key: key.display().to_string(),
                    source,
                })?)
            }
        };
        let serving = runtime.spawn(listen(app.clone(), listener, acceptor, handle.clone()));
        runtime.spawn(stop(app.clone(), handle.clone(), shutdown));
        let started = load().and_then(|engine| {
            app.attach(engine.clone());
            first_token(&engine)?;
            app.set_ready();
            ready(&engine);
            Ok(())
        });
        if let Err(error) = started {
            handle.shutdown();
            return Err(error);
        }
        let ended = runtime.block_on(serving);
        // What still runs there belongs to clients that are gone.
        runtime.shutdown_timeout(Duration::from_secs(1));
        if let Some(traces) = &app.traces {
            traces.flush();
        }
        match ended {
            Ok(served) => served.map_err(|error| ServeError::from(error).into()),
            Err(error) => Err(ServeError::from(io::Error::other(error)).into()),
        }
    }
}

async fn listen(
    app: Arc<App>,
    listener: TcpListener,
    tls: Option<RustlsConfig>,
    handle: Handle<SocketAddr>,
) -> io::Result<()> {
    let service = routes::router(&app).into_make_service();
    macro_rules! serve {
        ($server:expr) => {{
            let mut server = $server.handle(handle);
            server
                .http_builder()
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(limits::HEAD_TIME)
                .max_headers(limits::HEADERS)
                .max_buf_size(limits::HEAD);
            server.serve(service).await
        }};
    }
    match tls {
        None => serve!(axum_server::from_tcp(listener)?),
        Some(tls) => serve!(axum_server::from_tcp_rustls(listener, tls)?),
    }
}

/// Waits until it is asked to stop, by the program or by the system, and stops: gently at first.
async fn stop(app: Arc<App>, handle: Handle<SocketAddr>, shutdown: Shutdown) {
    let mut asked = shutdown.0.subscribe();
    #[cfg(unix)]
    {
        let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        if let Ok(mut terminate) = terminate {
            let shutdown = shutdown.clone();
            tokio::spawn(async move {
                while terminate.recv().await.is_some() {
                    shutdown.ask();
                }
            });
        }
    }
    let _ = asked.wait_for(|asked| *asked >= 1).await;
    app.drain();
    tracing::info!(
        open_answers = app.open_answers(),
        seconds = app.config.drain.as_secs(),
        "stopping: answers in flight may end, once more stops at once"
    );
    handle.graceful_shutdown(Some(app.config.drain));
    let _ = asked.wait_for(|asked| *asked >= 2).await;
    handle.shutdown();
}

/// Has the model generate a token, so that ready means that it works.
fn first_token(engine: &Engine) -> Result<(), ServeError> {
    let failed = |reason: String| ServeError::Model { reason };
    let mut request = Request::new(vec![0], SamplingParams::greedy());
    request.max_tokens = Some(1);
    request.ignore_eos = true;
    let events = engine.submit(request).map_err(|error| failed(error.to_string()))?;
    for event in events {
        match event {
            Event::Finished { .. } => return Ok(()),
            Event::Failed(failure) => return Err(failed(failure.to_string())),
            _ => {}
        }
    }
    Err(failed("it said nothing".into()))
}
