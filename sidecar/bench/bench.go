// Package bench measures a tunnel between two members, over connections through it as applications have them.
//
//	Run -> dial through the tunnel -> the far member's inbound port -> its loopback -> Responder
//
// A connection begins with a token and one byte that says what it is for: an upload is counted and the count sent back, a download is
// sent until somebody has enough, an echo returns each message of 64 bytes. So what is measured is TCP's payload where it arrives, with
// the far member's relay in between, and without this one's.
//
// Units: bytes, and microseconds for round trips. Everything ends with the context that it was given.
package bench

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// What a connection is for.
const (
	upload   = 'u'
	download = 'd'
	echo     = 'e'
)

const (
	chunk       = 64 << 10 // bytes of one write
	messageSize = 64       // bytes of a round trip's message, each way
	// introduction is how long a connection may take to say what it is for.
	introduction = 5 * time.Second
	// maxConnections is one for round trips besides the streams, and some that are on their way out.
	maxConnections = 2 * (wire.MaxBenchStreams + 1)
)

// NewToken makes what opens a door.
func NewToken() string {
	b := make([]byte, wire.BenchTokenSize/2)
	_, _ = rand.Read(b) // it never fails
	return hex.EncodeToString(b)
}

// Responder answers measurements by those who know its token.
type Responder struct{ Token string }

// Serve answers what a listener accepts until ctx ends, then closes the listener and every connection.
func (r Responder) Serve(ctx context.Context, l net.Listener) {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, maxConnections)
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-slots }()
			r.answer(ctx, c)
		})
	}
}

// answer serves one connection. Who does not know the token is told nothing.
func (r Responder) answer(ctx context.Context, c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(introduction))
	var hello [wire.BenchTokenSize + 1]byte
	if _, err := io.ReadFull(c, hello[:]); err != nil {
		return
	}
	if subtle.ConstantTimeCompare(hello[:wire.BenchTokenSize], []byte(r.Token)) != 1 {
		return
	}
	_ = c.SetDeadline(time.Time{}) // the door closes in time
	switch hello[wire.BenchTokenSize] {
	case upload:
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, chunk))
		if err == nil {
			_, _ = c.Write(binary.BigEndian.AppendUint64(nil, uint64(n))) //nolint:gosec // not negative
		}
	case download:
		for b := make([]byte, chunk); ; {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	case echo:
		for b := make([]byte, messageSize); ; {
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
}
