// Package gateway is one pod of a tunnel's gateway: the data plane of a member (package agent), with the tunnel's own key, and a
// Lease that says which of the pods is the active one. The others stand by: they follow the coordinator and open nothing.
//
// Two must never be active at once, as they are one to their peers. Nothing leaves once the Lease may be another's (datapath.Fence), and
// whoever cannot renew it ends; whoever ends by itself closes its tunnel first and gives the Lease back then. The operator and the
// coordinator have no part in that: a takeover needs the API server alone.
package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/klog/v2"

	"github.com/tenantwire/tenantwire/sidecar/agent"
	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/dns"
)

// Options are a gateway pod's.
type Options struct {
	Agent     agent.Options // all but Active, Soon, Foretold, Prepared, Fence and Handover
	Namespace string        // of the pod and its Lease
	Lease     string        // name of the Lease, which exists
	Identity  string        // the pod's name
	Timing    Timing
	// Linger is how long the active pod carries on at most after it was told to end: who takes over may just be starting.
	Linger time.Duration
	Log    *slog.Logger
}

// Timing is how fast another pod takes over. Zero fields have their defaults.
type Timing struct {
	Lease time.Duration // how long the Lease holds without being renewed; whole seconds, 2 s
	Renew time.Duration // how long the active pod tries to renew before it ends; less than Lease by what ending takes, 1.3 s
	Every time.Duration // between two renewals, 300 ms
	Retry time.Duration // between two looks at another's Lease, and two tries to renew; up to 2.2 times as long, 100 ms
	// Notice is how long the kubelet has known that who takes over is ready before the Lease is given back: what a Service takes to follow,
	// 1 s. Who connects meanwhile waits for so long.
	Notice time.Duration
	// Probed is how long the kubelet is waited for before that, at most, 6 s: it looks every second, on a node that is not too busy.
	Probed time.Duration
}

func (t Timing) orDefault() Timing {
	return Timing{cmp.Or(t.Lease, 2*time.Second), cmp.Or(t.Renew, 1300*time.Millisecond), cmp.Or(t.Every, 300*time.Millisecond),
		cmp.Or(t.Retry, 100*time.Millisecond), cmp.Or(t.Notice, time.Second), cmp.Or(t.Probed, 6*time.Second)}
}

// errLost ends the process: the next one stands by again.
var errLost = errors.New("the lease is lost: another pod may be active")

// RunInCluster runs a gateway with the pod's own rights.
func RunInCluster(ctx context.Context, o Options) error {
	klog.SetSlogLogger(o.Log) // the process's: what Run uses logs there
	cfg, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	return Run(ctx, cfg, o)
}

// Run stands by, then is active, until ctx ends or the Lease is lost.
func Run(ctx context.Context, cfg *rest.Config, o Options) error {
	if o.Lease == "" || o.Namespace == "" || o.Identity == "" {
		return errors.New("--lease, POD_NAMESPACE and POD_NAME must be set")
	}
	names, err := dns.Listen(o.Log, o.Agent.ListenPort, portOf(o.Agent.HealthAddr))
	if err != nil {
		return err
	}
	defer names.Close()
	o.Agent.DNS = names
	carrying, lose := context.WithCancelCause(context.WithoutCancel(ctx))
	defer lose(nil)
	active, fence := make(chan struct{}), datapath.NewFence()
	lock, err := newLease(cfg, o, fence)
	if err != nil {
		return err
	}
	elector, err := newElector(lock, o.Timing.orDefault(), func() { close(active) }, func() { lose(errLost) })
	if err != nil {
		return err
	}
	// The Lease outlasts ctx: it is given back once the tunnel is closed.
	holding, release := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer context.AfterFunc(ctx, func() {
		select {
		case <-active:
			lock.leave(carrying, o.Timing.orDefault(), o.Linger)
		default:
		}
		lose(ctx.Err())
	})()
	prepared := make(chan struct{})
	wg.Go(func() {
		select {
		case <-prepared:
			elector.Run(holding) // not before: who is active and knows nobody would keep others from carrying
		case <-holding.Done():
		}
	})
	o.Agent.Active, o.Agent.Fence, o.Agent.Prepared = active, fence, func() { close(prepared) }
	o.Agent.Handover, o.Agent.Soon, o.Agent.Foretold = lock, lock.soon, func() { lock.foretold.Store(true) }
	err = agent.RunMember(carrying, o.Agent)
	release()
	wg.Wait()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// portOf is 0 where there is none.
func portOf(address string) uint16 {
	_, port, _ := net.SplitHostPort(address)
	n, _ := strconv.ParseUint(port, 10, 16)
	return uint16(n)
}

func newLease(cfg *rest.Config, o Options, f *datapath.Fence) (*lease, error) {
	t := o.Timing.orDefault()
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = t.Renew / 2 // one call that hangs must not use up the time to renew
	cfg.QPS = -1              // Retry bounds it
	leases, err := v1.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	return &lease{client: leases.Leases(o.Namespace), name: o.Lease, identity: o.Identity, holds: t.Lease, every: t.Every, fence: f,
		soon: make(chan bool, 1)}, nil
}

func newElector(lock *lease, t Timing, started, stopped func()) (*leaderelection.LeaderElector, error) {
	e, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: t.Lease, RenewDeadline: t.Renew, RetryPeriod: t.Retry, ReleaseOnCancel: true, Name: lock.name,
		Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) { started() }, OnStoppedLeading: stopped},
	})
	if err != nil {
		return nil, fmt.Errorf("stand for lease %s: %w", lock.name, err)
	}
	return e, nil
}
