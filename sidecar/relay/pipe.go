package relay

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// What a half is doing, for the watcher.
const (
	reading int32 = iota
	writing
	done
)

// half carries one direction of a connection: read, write, repeat; then FIN.
type half struct {
	in    *reader
	out   datapath.Stream
	count *atomic.Uint64
	first []byte // bytes that were read before the pipe began
	state atomic.Int32
	wrote atomic.Uint32   // writes, for the reads of the other half
	room  syscall.RawConn // of out, once it was asked for
}

// pipe joins a local stream and a tunnel stream until both directions have ended or one side is reset.
type pipe struct {
	local, tunnel datapath.Stream
	up, down      half
	once          sync.Once
	why           atomic.Uint32 // Reason of the first failure
}

// newPipe joins the two; early are bytes the local client sent ahead, to be written first.
func (r *Relay) newPipe(local, tunnel datapath.Stream, early []byte, m *meter) *pipe {
	p := &pipe{local: local, tunnel: tunnel}
	bulk := r.bulkFor(tunnel)
	p.up = half{in: newReader(local, r.lender, bulk, false), out: tunnel, count: &m.up, first: early}
	_, p.up.in.yields = tunnel.(Reserver)
	bulk = largeBuffer
	_, kernel := local.(localStream)
	if !kernel { // through the tunnel too
		bulk = r.bulkFor(local)
	}
	p.down = half{in: newReader(tunnel, r.lender, bulk, false), out: local, count: &m.down}
	p.down.in.yields = kernel
	p.down.in.coalesce(&p.up.wrote)
	return p
}

// run carries until the end and owns both streams: they are closed when it returns. Cancelling ctx aborts both.
func (p *pipe) run(ctx context.Context, w *watcher) Reason {
	stop := context.AfterFunc(ctx, func() { p.abort(Aborted) })
	w.add(p)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.carry(&p.down, &p.up, ResetByTunnel, ResetByLocal)
	}()
	p.carry(&p.up, &p.down, ResetByLocal, ResetByTunnel)
	<-ended
	w.remove(p)
	stop()
	p.once.Do(func() {
		_ = p.local.Close()
		_ = p.tunnel.Close()
	})
	return Reason(p.why.Load())
}

// carry runs one half, against the other; from and to name a failure of its source and of its destination.
func (p *pipe) carry(h, other *half, from, to Reason) {
	readErr, writeErr := h.copy()
	ended := false
	switch {
	case writeErr != nil:
		p.abort(to)
	case readErr != nil:
		p.abort(from)
	case other.state.Load() != done && p.wasReset(h, other):
		// The write of the other half was handed the reset, so the read saw nothing but the end.
		p.abort(from)
	default:
		// Last, because an abort under way has closed what the cases above ask; a FIN now would overtake its reset.
		ended = p.why.Load() == uint32(None)
	}
	h.state.Store(done) // after abort: the other half takes "done" for "in order"
	if other.state.Load() == done {
		return // the FIN is run's, which closes both
	}
	if ended && h.out.CloseWrite() != nil && other.state.Load() != done {
		p.abort(to) // if the destination had finished in order the other half would have seen it
	}
}

// abort resets both sides. The first reason stays.
func (p *pipe) abort(why Reason) {
	p.once.Do(func() {
		p.why.Store(uint32(why))
		p.local.Abort()
		p.tunnel.Abort()
	})
}

// copy moves bytes until the source's FIN, which is two nils.
func (h *half) copy() (readErr, writeErr error) {
	defer h.in.release()
	if len(h.first) > 0 {
		if writeErr = h.write(h.first); writeErr != nil {
			return nil, writeErr
		}
		h.first = nil
	}
	for {
		if writeErr = h.reserve(); writeErr != nil {
			return nil, writeErr
		}
		data, err := h.in.next()
		if len(data) > 0 {
			if writeErr = h.write(data); writeErr != nil {
				return nil, writeErr
			}
		}
		h.in.release()
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return err, nil
		}
	}
}

// reserve has what waits to be read wait there until it can be written, where buffers are scarce.
func (h *half) reserve() (err error) {
	switch out := h.out.(type) {
	case Reserver:
		n := h.in.waiting()
		if n == 0 {
			return nil
		}
		h.state.Store(writing)
		h.in.room, err = out.Reserve(n)
	case localStream:
		if h.in.lender.scarce() {
			return h.awaitRoom(out)
		}
		return nil
	default:
		return nil
	}
	h.state.Store(reading)
	return err
}

// awaitRoom waits until there are bytes, if there is a way to know, and an application takes some: those that it does not are left where they are.
func (h *half) awaitRoom(to localStream) error {
	in, ok := h.in.conn.(Backlogged)
	if !ok || h.in.waiter == nil || h.in.waiter.WaitReadable() != nil || in.Unread() == 0 {
		return nil // the read says what it is
	}
	if h.room == nil {
		raw, err := to.SyscallConn()
		if err != nil {
			return err
		}
		h.room = raw
	}
	h.state.Store(writing)
	err := h.room.Write(writable)
	h.state.Store(reading)
	return err
}

func (h *half) write(data []byte) error {
	h.state.Store(writing)
	h.wrote.Add(1) // first: the answer may come before Write returns
	n, err := h.out.Write(data)
	h.count.Add(uint64(max(n, 0)))
	h.state.Store(reading)
	return err
}
