package agent

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/auto"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// choice is the datapath of this process: what was asked for, what it is, and why.
type choice struct {
	asked string // Auto or a datapath.Kind
	kind  datapath.Kind
	why   string // at most 512 bytes
}

// likeMine is what a member's interface will be like before the member knows its addresses: every member has one of these, and where
// there is no IPv6 the datapaths with a real interface cannot be had.
var likeMine = datapath.Interface{Addresses: []netip.Prefix{netip.MustParsePrefix("fd74:6e77::1/128")}, MTU: 1420}

// chooseDatapath finds out, by trying, what moves this member's packets. What the webhook knows better (it did not ask for the right
// to anything but Netstack) is the reason then.
func (o *Options) chooseDatapath() (choice, error) {
	like := likeMine
	like.Hub = o.Relays
	kind, why, err := auto.Probe(o.Datapath, "", like)
	if err != nil {
		return choice{}, &noDatapathError{err}
	}
	if o.DatapathWhy != "" {
		why = o.DatapathWhy
	}
	c := choice{o.Datapath, kind, truncate(why, 512)}
	o.Log.Info("datapath chosen", "datapath", string(c.kind), "why", c.why)
	return c, nil
}

// noDatapathError says that the datapath that was asked for cannot be had. The member does not run then: with another datapath it would
// do what nobody asked for, and the pod's application waits for it.
type noDatapathError struct{ error }

func (e *noDatapathError) Unwrap() error { return e.error }

// lastWords bounds how long a member that ends tries to say why.
const lastWords = 20 * time.Second

// tell has the coordinator write why into the member's status, which may not exist yet.
func (e *noDatapathError) tell(ctx context.Context, o Options) {
	ctx, cancel := context.WithTimeout(ctx, lastWords)
	defer cancel()
	c := newClient(o.Coordinator, o.TokenFile, o.CAFile)
	defer c.anew()
	var last error
	if retry(ctx, 100*time.Millisecond, 2*time.Second, func() error {
		last = c.report(ctx, wire.Report{Reason: truncate(e.Error(), 512), DatapathUnavailable: true})
		return last
	}) != nil {
		o.Log.Warn("the coordinator does not know why this member does not run", "error", fmt.Sprint(last))
	}
}
