package relay

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"
)

// Direction says which way connections of a stats row are opened.
type Direction string

// The directions.
const (
	Outbound Direction = "Outbound" // through a Forward
	Accepted Direction = "Inbound"  // by a peer, to a listed port
	Proxied  Direction = "Proxied"  // through SOCKS5 or HTTP CONNECT
	Relayed  Direction = "Relayed"  // by another pod, through an Egress
)

// Stats is a snapshot of the relay's counters; counters of what was removed are gone.
type Stats struct {
	Connections int // open TCP connections, all together
	Rows        []Row
}

// Row counts for one forward, inbound port or proxy.
type Row struct {
	Direction Direction
	Name      string // forward's name, inbound port, "socks5" or "http"
	Protocol  Protocol
	Open      int64  // TCP connections being carried
	Total     uint64 // TCP connections carried since the start
	Flows     int64  // UDP flows open
	FlowTotal uint64 // UDP flows since the start
	Up        uint64 // payload bytes from the local socket to the tunnel
	Down      uint64 // payload bytes from the tunnel to the local socket
	Failures  map[Reason]uint64
}

type meterKey struct {
	dir   Direction
	name  string
	proto Protocol
}

// meter is the live form of a Row.
type meter struct {
	key               meterKey
	open, flows       atomic.Int64
	total, flowTotal  atomic.Uint64
	up, down          atomic.Uint64
	failures          [numReasons]atomic.Uint64
	loggedAt          atomic.Int64 // unix nanoseconds of the last log line
	suppressedSinceIt atomic.Uint64
}

func (m *meter) fail(why Reason) { m.failures[why].Add(1) }

// mayLog is true at most once in ten seconds, and says how many lines were left out since: a client that retries in a loop
// must not turn the log into the bottleneck.
func (m *meter) mayLog(now time.Time) (suppressed uint64, ok bool) {
	last := m.loggedAt.Load()
	if now.UnixNano()-last < int64(10*time.Second) || !m.loggedAt.CompareAndSwap(last, now.UnixNano()) {
		m.suppressedSinceIt.Add(1)
		return 0, false
	}
	return m.suppressedSinceIt.Swap(0), true
}

func (m *meter) row() Row {
	row := Row{
		Direction: m.key.dir, Name: m.key.name, Protocol: m.key.proto,
		Open: m.open.Load(), Total: m.total.Load(), Flows: m.flows.Load(), FlowTotal: m.flowTotal.Load(),
		Up: m.up.Load(), Down: m.down.Load(), Failures: map[Reason]uint64{},
	}
	for i := range m.failures {
		if n := m.failures[i].Load(); n > 0 {
			row.Failures[Reason(i)] = n
		}
	}
	return row
}

// meterFor returns the meter of a key, made on first use.
func (r *Relay) meterFor(key meterKey) *meter {
	r.metersMu.Lock()
	defer r.metersMu.Unlock()
	m := r.meters[key]
	if m == nil {
		m = &meter{key: key}
		r.meters[key] = m
	}
	return m
}

// pruneMeters forgets the meters of one direction that keep does not name.
func (r *Relay) pruneMeters(dir Direction, keep map[meterKey]bool) {
	r.metersMu.Lock()
	defer r.metersMu.Unlock()
	for key := range r.meters {
		if key.dir == dir && !keep[key] {
			delete(r.meters, key)
		}
	}
}

// Stats returns the counters, ordered by direction, name and protocol.
func (r *Relay) Stats() Stats {
	r.metersMu.Lock()
	rows := make([]Row, 0, len(r.meters))
	for _, m := range r.meters {
		rows = append(rows, m.row())
	}
	r.metersMu.Unlock()
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol))
	})
	return Stats{Connections: r.connections(), Rows: rows}
}
