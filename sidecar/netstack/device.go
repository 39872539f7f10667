package netstack

import (
	"os"

	"github.com/tailscale/wireguard-go/tun"
)

// device is a Stack as the engine sees it. Several names clash with gVisor's link endpoint, hence a type of its own.
type device struct{ l *link }

var _ tun.Device = device{}

// Read returns up to 128 outbound packets and waits while there is none.
func (d device) Read(slab []byte, packets []tun.ReadPacket) (int, error) {
	return d.l.read(slab, packets)
}

// Write takes a batch of inbound packets, each beginning at offset. It never fails on what a peer sent: that is dropped and
// counted. The engine's buffers are free again when it returns.
func (d device) Write(bufs [][]byte, offset int) (int, error) {
	if d.l.s.closed() {
		return 0, os.ErrClosed
	}
	d.l.deliver(bufs, offset)
	return len(bufs), nil
}

// MTU is the inner MTU.
func (d device) MTU() (int, error) { return int(d.l.mtu.Load()), nil }

// Name is what the engine calls the device in its log.
func (d device) Name() (string, error) { return "netstack", nil }

// File is nil: there is no descriptor.
func (d device) File() *os.File { return nil }

// Events tells the engine of MTU changes.
func (d device) Events() <-chan tun.Event { return d.l.events }

// BatchSize is the most packets per Read and Write.
func (d device) BatchSize() int { return batch }

// Close closes the Stack.
func (d device) Close() error { return d.l.s.Close() }
