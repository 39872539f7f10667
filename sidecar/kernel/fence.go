//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/nft"
	"github.com/tenantwire/tenantwire/sidecar/oslink"
)

// fence keeps what WireGuard sends from leaving but while a datapath.Fence is open, whatever becomes of this process: the kernel knows until when
// that is, and shuts by itself. It knows by two clocks, of which each covers for the other. By the element of a set that times out, where the
// clock of the day is put back. By that clock, where the process is stopped after it has reckoned how long the element is to last, and before
// the kernel has it.
type fence struct {
	of  *datapath.Fence
	log *slog.Logger

	mu     sync.Mutex
	conn   *nft.Conn
	table  *nftables.Table
	chain  *nftables.Chain
	marked *nftables.Set // the mark of what may leave, while it may
}

// held counts what the fence kept back.
const held = datapath.DropSendError

// newFence makes a fence that is shut. It is there before WireGuard has a key.
func newFence(iface string, of *datapath.Fence, log *slog.Logger) (*fence, error) {
	conn, err := nft.Open()
	if err != nil {
		return nil, err
	}
	f := &fence{of: of, log: log, conn: conn, table: &nftables.Table{Name: "tenantwire-fence-" + iface, Family: nftables.TableFamilyINet}}
	if err := f.build(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("set up nftables table %s: %w", f.table.Name, err)
	}
	return f, nil
}

func (f *fence) build() error {
	f.conn.Anew(f.table)
	f.conn.AddObj(nft.Counter(f.table, held))
	f.marked = &nftables.Set{Table: f.table, Name: "open", KeyType: nftables.TypeMark, HasTimeout: true}
	if err := f.conn.AddSet(f.marked, nil); err != nil {
		return err
	}
	priority := *nftables.ChainPriorityFirst // nobody has given the packet another mark yet
	f.chain = f.conn.AddChain(&nftables.Chain{Name: "output", Table: f.table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: &priority})
	f.fill(time.Unix(0, 0))
	return f.conn.Flush()
}

// fill says what may leave.
func (f *fence) fill(until time.Time) {
	f.conn.FlushChain(f.chain)
	nft.Add(f.conn, f.chain, nft.Not(nft.Marked(oslink.Mark)), nft.Verdict(expr.VerdictAccept))
	nft.Add(f.conn, f.chain, []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}}, nft.Among(f.marked), nft.Before(until), nft.Verdict(expr.VerdictAccept))
	nft.Add(f.conn, f.chain, nft.Count(held), nft.Verdict(expr.VerdictDrop))
}

// follow has the kernel know what the datapath.Fence says, from now on.
func (f *fence) follow() { f.of.Follow(f.set) }

func (f *fence) set(until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.open(until)
	if errors.Is(err, fs.ErrNotExist) { // somebody has taken the table away
		err = errors.Join(f.build(), f.open(until))
	}
	if err != nil { // it shuts when it should, and is tried again with the next renewal
		f.log.Warn("what may leave could not be extended", "error", err.Error())
	}
}

// least is how long an element lasts that is worth adding: what is less than the kernel counts in would last for ever.
const least = 20 * time.Millisecond

func (f *fence) open(until time.Time) error {
	now := time.Now() // both clocks as they are at one moment: the process may be stopped after any other
	left := until.Sub(now)
	f.conn.FlushSet(f.marked)
	f.fill(now.Add(left))
	if left >= least {
		if err := f.conn.SetAddElements(f.marked, []nftables.SetElement{{Key: binaryutil.NativeEndian.PutUint32(oslink.Mark), Timeout: left}}); err != nil {
			return err
		}
	}
	return f.conn.Flush()
}

// dropped is how many packets did not leave.
func (f *fence) dropped() (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conn.Counted(f.table, held)
}

// close takes the fence away with the interface. Where that is there still, it stays, and is shut.
func (f *fence) close(gone bool) error {
	f.of.Follow(nil)
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.conn.Close()
	if !gone {
		return f.open(time.Now())
	}
	f.conn.DelTable(f.table)
	if err := f.conn.Flush(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove nftables table %s: %w", f.table.Name, err)
	}
	return nil
}
