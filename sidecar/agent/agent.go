// Package agent is the sidecar: it brings a tunnel up in a pod, keeps it as the coordinator says, and takes it down with care.
//
//	key -> register -> watch -> plane (device + relay) -> report
//	                     `-> cache, so that a restart needs nobody
//
// RunMember does that inside a pod. RunStatic runs the same plane from a file, with no cluster at all. Whatever ends the watch (the
// network, a garbled line, a coordinator that is gone), the plane keeps what it has; only Gone, said by a coordinator, empties it.
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/auto"
	"github.com/tenantwire/tenantwire/sidecar/dns"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/limits"
	"github.com/tenantwire/tenantwire/sidecar/privilege"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// Options configure a member.
type Options struct {
	Coordinator *url.URL              // https://host[:port]
	TokenFile   string                // service-account token bound to wire.TokenAudience; read anew for every request
	CAFile      string                // PEM certificates that sign the coordinator's; read anew for every connection
	StateDir    string                // memory-backed; holds the key and the last good configuration
	PodIP       netip.Addr            // what other members dial
	Namespace   string                // the pod's, to recognise the longer names of its Services
	ListenPort  uint16                // outer UDP port
	HealthAddr  string                // address of /healthz, /readyz and /metrics
	Datapath    string                // Auto or a datapath.Kind
	DatapathWhy string                // why the webhook chose Datapath; empty: it is the tunnel's own choice
	Names       map[string]netip.Addr // carried name -> loopback address to listen on
	OwnPorts    []wire.Port           // the application's: never listened on for any name
	SOCKS5      netip.AddrPort        // loopback; zero: off
	HTTPConnect netip.AddrPort        // loopback; zero: off
	KeyFile     string                // the private key; empty: made on the first start, and kept in StateDir
	// DNS answers for the names that the coordinator tells, to those who ask inside the tunnel; nil: nobody does. The caller closes it.
	DNS *dns.Server
	// PresharedKeys is a folder with a file for each preshared key that the coordinator names; empty: none is found.
	PresharedKeys string
	Relays        bool            // a gateway: other pods may come in by the pod's address, as the coordinator says
	Fence         *datapath.Fence // until when anything may leave; nil: always
	Active        <-chan struct{} // closed when this process may carry traffic; until then it stands by. Nil: at once
	Soon          <-chan bool     // with Active: says that this will be soon, and when it will not be after all; nil: nobody knows
	Foretold      func()          // with Soon: called when who asks for readiness was answered that it will be soon; nil: nobody
	Prepared      func()          // called once, while it stands by, when it knows enough to become active; nil: nobody
	Handover      Handover        // with Active: where peers are, from who was active before, and for who will be; nil: nobody
	Drain         time.Duration   // how long open connections may finish after SIGTERM
	Version       string          // of the program, for the coordinator and the metrics
	OwnProcess    bool            // nothing else runs in this process: it limits and protects itself, and gives up a capability that is not needed
	Log           *slog.Logger
}

// Validate names the first option that cannot be used.
func (o *Options) Validate() error {
	switch {
	case o.Coordinator == nil || o.Coordinator.Scheme != "https" || o.Coordinator.Host == "":
		return fmt.Errorf("--coordinator: %v is not an https URL", o.Coordinator)
	case o.TokenFile == "" || o.CAFile == "" || o.StateDir == "":
		return errors.New("--token-file, --ca-file and --state-dir must be set")
	case !o.PodIP.IsValid():
		return errors.New("POD_IP: not an IP address")
	case o.ListenPort == 0:
		return errors.New("--listen-port: 0 is not 1..65535")
	}
	for name, a := range o.Names {
		if !a.IsLoopback() {
			return fmt.Errorf("--name %s: %s is not a loopback address", name, a)
		}
	}
	if err := auto.Check(o.Datapath); err != nil {
		return fmt.Errorf("--datapath: %w", err)
	}
	return nil
}

// ParsePort reads PORT/PROTOCOL, for example 8080/TCP.
func ParsePort(s string) (wire.Port, error) {
	number, protocol, _ := strings.Cut(s, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	p := wire.Port{Port: uint16(n), Protocol: wire.Protocol(protocol)}
	if err != nil || n == 0 || p.Protocol != wire.TCP && p.Protocol != wire.UDP {
		return wire.Port{}, fmt.Errorf("%q is not PORT/TCP or PORT/UDP with a port from 1 to 65535", s)
	}
	return p, nil
}

// retry calls f until it returns nil or ctx ends, waiting between calls from first to most, doubling, with jitter.
func retry(ctx context.Context, first, most time.Duration, f func() error) error {
	for wait := first; ; wait = min(2*wait, most) {
		err := f()
		if err == nil {
			return nil
		}
		if !sleep(ctx, jitter(wait)) {
			return ctx.Err()
		}
	}
}

// sleep waits; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// RunMember runs a member until ctx ends.
func RunMember(ctx context.Context, o Options) error {
	if err := prepare(o.OwnProcess); err != nil {
		return err
	}
	m, err := newMember(o)
	if err != nil {
		var none *noDatapathError
		if errors.As(err, &none) {
			none.tell(ctx, o)
		}
		return err
	}
	defer m.client.anew()
	if o.OwnProcess && m.plane.chosen.kind == datapath.Netstack {
		if err := privilege.Drop(); err != nil {
			return err
		}
	}
	return serve(ctx, o.HealthAddr, o.Drain, m.plane, o.Log, m.run)
}

// prepare makes a process that is ours alone what it should be before it knows a key, and takes the capability that it may need.
func prepare(ownProcess bool) error {
	if ownProcess {
		limits.Apply()
		if err := privilege.ProtectMemory(); err != nil {
			return err
		}
	}
	return privilege.Raise()
}

// newMember reads the member's key, or makes it; nothing runs yet.
func newMember(o Options) (*member, error) {
	began := time.Now()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	store, err := openStore(o.StateDir)
	if err != nil {
		return nil, err
	}
	private, err := o.privateKey(store)
	if err != nil {
		return nil, err
	}
	tries := time.Now()
	chosen, err := o.chooseDatapath()
	if err != nil {
		return nil, err
	}
	plane := newPlane(private, o.ListenPort, chosen, o.Log)
	plane.version, plane.ownProcess = o.Version, o.OwnProcess
	plane.standby, plane.fence, plane.prepared, plane.foretold = o.Active != nil, o.Fence, o.Prepared, o.Foretold
	plane.apart = o.Relays // peers' routes may lead over what a gateway needs itself, the API server and other pods
	plane.preshared, plane.dns, plane.podIP = presharedKeys(o.PresharedKeys), o.DNS, o.PodIP
	m := &member{
		Options: o, store: store, public: private.Public(),
		silence: 3 * wire.HeartbeatInterval, patience: 10 * time.Second, reports: make(chan struct{}, 1), notices: make(chan string, 8),
		plane: plane, client: newClient(o.Coordinator, o.TokenFile, o.CAFile),
	}
	plane.diagnosis = m.serveDiagnosis
	plane.notice = m.notice
	m.steps.took("choose the datapath", tries)
	m.steps.took("start", began)
	return m, nil
}

func (o *Options) privateKey(s *store) (key.Private, error) {
	if o.KeyFile == "" {
		return s.key()
	}
	text, err := readSecret("", o.KeyFile)
	if err != nil {
		return key.Private{}, fmt.Errorf("--key-file: %s: %w", o.KeyFile, err)
	}
	k, err := key.ParsePrivate(text)
	if err != nil {
		return key.Private{}, fmt.Errorf("--key-file: %s: %w", o.KeyFile, err)
	}
	return k, nil
}

// serve runs the health endpoint beside run until ctx ends, then drains and closes the plane.
func serve(ctx context.Context, health string, drain time.Duration, p *plane, log *slog.Logger, run func(context.Context) error) error {
	h, err := listenHealth(health, p)
	if err != nil {
		return err
	}
	defer h.close()
	following, stop := context.WithCancel(context.WithoutCancel(ctx)) // drained connections need their peers still
	var names sync.WaitGroup
	names.Go(func() { p.endpoints.Run(following) })
	err = run(ctx)
	p.draining.Store(true)
	log.Info("draining", "for", drain.String())
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	p.drain(grace)
	stop()
	names.Wait()
	if cerr := p.close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close data plane: %w", cerr))
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// minTLS is the least version spoken with the coordinator.
const minTLS = tls.VersionTLS13
