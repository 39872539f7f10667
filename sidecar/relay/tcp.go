package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// door is a TCP listener. Its context ends what it let in.
type door struct {
	r      *Relay
	ln     *net.TCPListener
	ctx    context.Context
	cancel context.CancelFunc
	serve  func(ctx context.Context, c localStream) // owns c
	meter  func() *meter
}

// openDoor binds at and serves every connection on a goroutine of its own.
func (r *Relay) openDoor(at netip.AddrPort, m func() *meter, serve func(context.Context, localStream)) (*door, error) {
	ln, err := listenTCP(r.ctx, at)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", at, err)
	}
	return r.newDoor(ln, m, serve)
}

// newDoor does so on a listener, which is the door's from then on.
func (r *Relay) newDoor(ln *net.TCPListener, m func() *meter, serve func(context.Context, localStream)) (*door, error) {
	ctx, cancel := r.context()
	d := &door{r: r, ln: ln, ctx: ctx, cancel: cancel, serve: serve, meter: m}
	if !r.spawn(d.accept) {
		d.abort()
		return nil, ErrDraining
	}
	return d, nil
}

func (d *door) accept() {
	pause := 5 * time.Millisecond
	for {
		c, err := d.ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors or memory: passing, but not for a loop that does not wait.
			d.meter().fail(Limit)
			if !sleep(d.ctx, pause) {
				return
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		d.admit(localStream{c})
	}
}

func (d *door) admit(c localStream) {
	if why := d.r.begin(); why != None {
		d.r.failed(d.meter(), why)
		c.Abort()
		return
	}
	ok := d.r.spawn(func() {
		defer d.r.end()
		d.serve(d.ctx, c)
	})
	if !ok {
		d.r.end()
		c.Abort()
	}
}

func (d *door) stop() { _ = d.ln.Close() }

func (d *door) abort() {
	d.stop()
	d.cancel()
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// tcpForward serves one TCP Forward.
type tcpForward struct {
	*door
	r     *Relay
	state atomic.Pointer[forwardState]
}

func (r *Relay) openTCPForward(f Forward) (listener, error) {
	t := &tcpForward{r: r}
	t.state.Store(r.forwardState(f))
	var err error
	t.door, err = r.openDoor(f.Listen, func() *meter { return t.state.Load().meter }, t.handle)
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (t *tcpForward) update(f Forward) { t.state.Store(t.r.forwardState(f)) }

func (t *tcpForward) handle(ctx context.Context, c localStream) {
	st := t.state.Load()
	s, target, why := t.r.dialForward(ctx, st)
	if why != None {
		t.r.failed(st.meter, why, "targets", len(st.Targets))
		c.Abort()
		return
	}
	defer t.r.balancer.end(target)
	t.r.carry(ctx, c, s, nil, st.meter)
}

// failed counts a failure and logs it, seldom.
func (r *Relay) failed(m *meter, why Reason, args ...any) {
	m.fail(why)
	if suppressed, ok := m.mayLog(time.Now()); ok {
		args = append(args, "direction", m.key.dir, "name", m.key.name, "protocol", m.key.proto, "reason", why.String(), "suppressed", suppressed)
		r.log.Warn("connection not carried", args...)
	}
}
