package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// How changes are followed.
const (
	settling = 200 * time.Millisecond // changes come together: one of them is shown
	renewal  = 2 * time.Second        // between attempts to follow or to read after one failed
	ageing   = 10 * time.Second       // between looks at the clock, where no pod is asked
)

// watchStatus shows the status anew whenever it reads otherwise, until ctx ends. Objects are read when the API server says that one has
// changed; pods, who tell nobody, are asked once an interval.
func (cs *commands) watchStatus(ctx context.Context, n *namespace, q inquiry, asked *asker) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := make(chan struct{}, 1)
	for _, list := range []client.ObjectList{&v1alpha1.TenantTunnelList{}, &v1alpha1.TunnelMemberList{}, &v1alpha1.TunnelPeerList{}} {
		go n.follow(ctx, list, changes)
	}
	every := ageing
	if q.live {
		every = q.interval
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var o *objects
	var r *report
	s := screen{out: cs.Out, clears: q.form == listTable && isTerminal(cs.Out), between: map[string]string{listTable: "\n", listYAML: "---\n"}[q.form]}
	for again := true; ; {
		if again {
			fresh, err := n.look(ctx, q.tunnel)
			switch {
			case err == nil:
				o, again = fresh, false
			case ctx.Err() != nil:
			case o == nil || !passing(err):
				return err
			default:
				cs.say("note: what is shown may be old: %v", err)
				wait(ctx, renewal)
				continue
			}
		}
		if ctx.Err() != nil && r == nil {
			return errors.New("interrupted")
		}
		if ctx.Err() != nil {
			return r.verdict() // of what was shown last
		}
		r = makeReport(o, time.Now())
		asked.figures(ctx, r)
		if err := s.show(func(w io.Writer) error { return r.print(w, q, time.Now()) }); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return r.verdict()
		case <-tick.C:
		case <-changes:
			wait(ctx, settling)
			again = true
		}
	}
}

// follow says on changes that an object of a kind has changed, or may have while it was not followed.
func (n *namespace) follow(ctx context.Context, list client.ObjectList, changes chan<- struct{}) {
	for ctx.Err() == nil {
		w, err := n.client.Watch(ctx, list, client.InNamespace(n.name))
		if err != nil { // reading says what is wrong, where it is not that the API server is away
			wait(ctx, renewal)
			continue
		}
		for range w.ResultChan() {
			select {
			case changes <- struct{}{}:
			default:
			}
		}
		w.Stop()
		wait(ctx, settling)
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// screen shows one text in place of another, or after it where nothing can be cleared. The same text is not shown twice.
type screen struct {
	out     io.Writer
	clears  bool
	between string // two texts, where nothing is cleared
	shown   []byte
}

func (s *screen) show(draw func(io.Writer) error) error {
	var b bytes.Buffer
	if err := draw(&b); err != nil {
		return err
	}
	if s.shown != nil && bytes.Equal(b.Bytes(), s.shown) {
		return nil
	}
	between := ""
	switch {
	case s.clears:
		between = "\x1b[H\x1b[2J\x1b[3J"
	case s.shown != nil:
		between = s.between
	}
	s.shown = b.Bytes()
	_, err := fmt.Fprint(s.out, between, b.String())
	return err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
