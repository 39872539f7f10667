//go:build linux

package nft

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Conn is the library's connection, lasting, in the network namespace of the thread that opened it. It does not wait for ever where the kernel answers
// less than the library expects, and what comes late is not taken for the answer to something else.
type Conn struct {
	*nftables.Conn
	sock *netlink.Conn
}

// patience is more than the kernel takes for any transaction of ours, where it is emulated and has little of a CPU too. All of that passes before the
// library reads the first of the answers.
const patience = 30 * time.Second

// Open connects.
func Open() (*Conn, error) {
	c := &Conn{}
	var err error
	c.Conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(s *netlink.Conn) error { c.sock = s; return nil }))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return c, nil
}

// Close ends it; what was not flushed is not done.
func (c *Conn) Close() { _ = c.CloseLasting() }

// Flush makes what was asked for since the last one a transaction: all of it is done, or an error says what is wrong.
func (c *Conn) Flush() error { return c.bounded(c.Conn.Flush) }

// Do makes one message a transaction, for what the library has no words for.
func (c *Conn) Do(m netlink.Message) error {
	edge := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request}, Data: []byte{0, 0, 0, unix.NFNL_SUBSYS_NFTABLES}}
	}
	return c.bounded(func() error {
		if _, err := c.sock.SendMessages([]netlink.Message{edge(unix.NFNL_MSG_BATCH_BEGIN), m, edge(unix.NFNL_MSG_BATCH_END)}); err != nil {
			return err
		}
		_, err := c.sock.Receive()
		return err
	})
}

func (c *Conn) bounded(f func() error) error {
	_ = c.sock.SetDeadline(time.Now().Add(patience))
	err := f()
	if err != nil {
		c.drain()
	}
	_ = c.sock.SetDeadline(time.Time{})
	return err
}

// drain takes what else the kernel has to say to what failed.
func (c *Conn) drain() {
	const late, most = 20 * time.Millisecond, 1 << 12
	_ = c.sock.SetDeadline(time.Now().Add(late))
	for range most {
		if _, err := c.sock.Receive(); errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
			return
		}
	}
}

// Anew makes a table that is empty, whatever there was of that name.
func (c *Conn) Anew(t *nftables.Table) {
	c.Remove(t)
	c.AddTable(t)
}

// Remove takes a table away, if it is there.
func (c *Conn) Remove(t *nftables.Table) {
	c.AddTable(t) // so that deleting it cannot fail
	c.DelTable(t)
}

// Fill makes these the elements of a set. A message holds 64 KiB.
func (c *Conn) Fill(s *nftables.Set, elements []nftables.SetElement) error {
	c.FlushSet(s)
	return c.Each(s, elements, c.SetAddElements)
}

// Each has what done with elements of a set, in messages that are not too long.
func (c *Conn) Each(s *nftables.Set, elements []nftables.SetElement, what func(*nftables.Set, []nftables.SetElement) error) error {
	const most = 512
	for some := range slices.Chunk(elements, most) {
		if err := what(s, some); err != nil {
			return err
		}
	}
	return nil
}

// Counted is what the counter of that name has counted.
func (c *Conn) Counted(t *nftables.Table, name string) (uint64, error) {
	o, err := c.GetObject(Counter(t, name))
	if err != nil {
		return 0, fmt.Errorf("read counter %s: %w", name, err)
	}
	if named, ok := o.(*nftables.NamedObj); ok {
		if counter, ok := named.Obj.(*expr.Counter); ok {
			return counter.Packets, nil
		}
	}
	return 0, fmt.Errorf("read counter %s: the kernel knows of none", name)
}
