package relay

import (
	"sync"
	"time"
)

const watchEvery = 500 * time.Millisecond

// watcher finds resets that no read can find: a half that is stalled in a write, or that has seen FIN, does not read its
// source, so a reset there would go unnoticed and hold both connections. One timer serves all pipes and rests without any.
type watcher struct {
	mu    sync.Mutex
	pipes map[*pipe]struct{}
	timer *time.Timer
}

func (w *watcher) add(p *pipe) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pipes == nil {
		w.pipes = map[*pipe]struct{}{}
	}
	w.pipes[p] = struct{}{}
	if w.timer == nil {
		w.timer = time.AfterFunc(watchEvery, w.look)
	}
}

func (w *watcher) remove(p *pipe) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pipes, p)
	if len(w.pipes) == 0 && w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

func (w *watcher) look() {
	w.mu.Lock()
	unread := make([]*pipe, 0, 8)
	for p := range w.pipes {
		if p.up.state.Load() != reading || p.down.state.Load() != reading {
			unread = append(unread, p)
		}
	}
	if w.timer != nil {
		w.timer.Reset(watchEvery)
	}
	w.mu.Unlock()
	for _, p := range unread {
		p.check()
	}
}

// check aborts the pipe if a source that nobody is reading was reset.
func (p *pipe) check() {
	up, down := p.up.state.Load(), p.down.state.Load()
	if up == done && down == done {
		return
	}
	if up != reading && p.wasReset(&p.up, &p.down) {
		p.abort(ResetByLocal)
	}
	if down != reading && p.wasReset(&p.down, &p.up) {
		p.abort(ResetByTunnel)
	}
}

// wasReset says whether the source of h was reset. Once other has ended we have sent FIN to that source, and it being closed
// proves nothing; other is looked at last, because it may end meanwhile.
func (p *pipe) wasReset(h, other *half) bool {
	if other.state.Load() == done {
		return h.in.reset(true)
	}
	return h.in.reset(false) && other.state.Load() != done
}
