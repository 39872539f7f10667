// Package coordinator is the members' side of the control plane: it takes registrations and serves each member the stream of its
// configuration, over HTTPS, on every replica.
//
// It keeps no state of its own. What a member registers is written to its TunnelMember's status; what a member is told is planned
// by package tenant from the objects in the cache. A tunnel that somebody watches has a topic here: object events mark it dirty,
// it is planned again after a short delay, and every stream sends its member the difference.
package coordinator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Identity is the pod that a token was issued to.
type Identity struct {
	Pod types.NamespacedName
	UID types.UID
}

// Member is what the store knows of the pod behind an Identity.
type Member struct {
	Object *v1alpha1.TunnelMember
	PodIPs []netip.Addr // empty while the kubelet has not reported them
	Trace  string       // the pod's annotation; empty: it was admitted without a trace
}

// Store is what the coordinator needs of the cluster.
type Store interface {
	// Authenticate proves a token. An error that is ErrUnauthenticated is the token's fault, any other is not.
	Authenticate(ctx context.Context, token string) (Identity, error)
	// Member returns the member of a pod; false when there is none (yet), or it belongs to another pod of the same name.
	Member(ctx context.Context, id Identity) (Member, bool, error)
	// State gathers what a tunnel is planned from; false when the tunnel does not exist or is being deleted.
	State(ctx context.Context, tunnel types.NamespacedName) (tenant.State, bool, error)
	// WriteStatus records what a member said.
	WriteStatus(ctx context.Context, m *v1alpha1.TunnelMember, s Status) error
	// WritePeer records what a gateway said of an outside peer; the time is zero where it never had a handshake.
	WritePeer(ctx context.Context, p *v1alpha1.TunnelPeer, connected metav1.Condition, handshake time.Time) error
}

// ErrUnauthenticated says that a token proves nothing here.
var ErrUnauthenticated = errors.New("token refused")

// Options configure a Server; every duration has a default.
type Options struct {
	Store   Store
	Log     logr.Logger
	Metrics *Metrics
	// Event tells of a member's datapath, or why a peer is kept out, for whoever looks at the pod or the peer; kind is a
	// corev1.EventType. Nil tells nobody.
	Event func(about corev1.ObjectReference, kind string, reason tenant.Reason, action, message string)
	// Tracer makes spans of how pods join; nil: nothing is traced.
	Tracer trace.Tracer
	// Addr is the TCP address to listen on.
	Addr string
	// TLS gives the serving certificate; the minimum version is raised to 1.3.
	TLS *tls.Config
	// Heartbeat is the interval of heartbeats on a quiet stream; default wire.HeartbeatInterval.
	Heartbeat time.Duration
	// Debounce is how long a change waits for company before a tunnel is planned again; default 25 ms.
	Debounce time.Duration
	// JoinWait bounds how long a registration waits for the controllers to make its TunnelMember; default 10 s.
	JoinWait time.Duration
	// StreamAge bounds a stream, so that members spread over replicas again after one was away; default 30 min, ±20 %.
	StreamAge time.Duration
}

func (o *Options) setDefaults() {
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&o.Heartbeat, wire.HeartbeatInterval}, {&o.Debounce, 25 * time.Millisecond}, {&o.JoinWait, 10 * time.Second}, {&o.StreamAge, 30 * time.Minute}} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics()
	}
}

// Server is the coordinator; it is a runnable of the manager on every replica.
type Server struct {
	Options
	hub     *hub
	reviews chan struct{} // bounds token reviews under way, so that strangers cannot flood the API server
	listens atomic.Bool
	ending  chan struct{} // closed when members should go to another replica
}

// New makes a Server that Start runs.
func New(o Options) *Server {
	o.setDefaults()
	return &Server{Options: o, hub: newHub(o), reviews: make(chan struct{}, 64), ending: make(chan struct{})}
}

// NeedLeaderElection says that every replica serves.
func (s *Server) NeedLeaderElection() bool { return false }

// Check is a readiness check: it fails until members are served, which the manager starts with once its caches are synced.
func (s *Server) Check(*http.Request) error {
	if !s.listens.Load() {
		return errors.New("the coordinator does not listen yet")
	}
	return nil
}

// Changed marks every watched tunnel of a namespace for planning; call it on any event of an object that plans are made from.
func (s *Server) Changed(namespace string) { s.hub.changed(namespace) }

// Handler returns the HTTP API, for Start and for tests.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+wire.RegisterPath, s.authenticated(s.register))
	mux.Handle("POST "+wire.ReportPath, s.authenticated(s.report))
	mux.Handle("POST "+wire.PeersPath, s.authenticated(s.peers))
	mux.Handle("GET "+wire.WatchPath, s.authenticated(s.watch))
	return mux
}

// Start serves until ctx ends; streams end with it, and members move to another replica. Requests under way are
// answered.
func (s *Server) Start(ctx context.Context) error {
	t := s.TLS.Clone()
	t.MinVersion = tls.VersionTLS13
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Addr)
	if err != nil {
		return fmt.Errorf("listen for members on %s: %w", s.Addr, err)
	}
	srv := &http.Server{
		Handler: s.Handler(), TLSConfig: t,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
	}
	go s.hub.run(ctx)
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	s.listens.Store(true)
	s.Log.Info("coordinator serves members", "address", l.Addr().String())
	select {
	case err := <-done:
		return fmt.Errorf("serve members: %w", err)
	case <-ctx.Done():
		close(s.ending)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		return srv.Shutdown(grace)
	}
}
