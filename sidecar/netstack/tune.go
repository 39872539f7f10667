package netstack

import (
	"fmt"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// TCP's settings. Buffers start small and grow, the receive buffer as backlog.go has it and the send buffer as turns.go: a thousand
// idle connections must cost little, one long fat path must not be held back.
const (
	sendDefault    = 256 << 10
	sendMax        = 6 << 20
	datagramBuffer = 1 << 20 // receive and send buffer of a UDP socket

	// timeWait is short because the tunnel has no old duplicates to wait for: WireGuard's replay window already drops a
	// packet that comes late or twice. With the customary 60 s a client that closes first runs out of ports after some
	// 47,000 connections to one destination.
	timeWait   = time.Second
	finWait2   = 30 * time.Second // how long a connection closed by us waits for the other side's FIN
	synRetries = 5                // 1+2+4+8+16+32: a connect gives up after about a minute

	keepaliveIdle     = 60 * time.Second
	keepaliveInterval = 15 * time.Second
	keepaliveCount    = 4

	firstEphemeral, lastEphemeral = 10000, 65535
)

// tuneTCP sets what connections begin with. RACK is off: when a burst's end is lost, and nothing behind it, gVisor's goes into
// recovery with everything that was lost counted as still under way, and from then on has two packets a timeout retransmitted; a
// socket with the default buffers loses a hundred and more, which stalls a stream for ten seconds. Without it there is one timeout.
// Where a path reorders it is slower: half, of little. receiveFirst is the receive buffer that connections begin with, bytes.
func tuneTCP(s *stack.Stack, receiveFirst int) error {
	sack := tcpip.TCPSACKEnabled(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: receiveFirst, Max: receiveMax}
	cubic := tcpip.CongestionControlOption("cubic")
	recovery := tcpip.TCPRecovery(0)
	moderate := tcpip.TCPModerateReceiveBufferOption(true) // it is not; but this is what has gVisor offer a unit of the window for the largest
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: sendDefault, Max: sendMax}
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	reuse := tcpip.TCPTimeWaitReuseGlobal
	linger := tcpip.TCPLingerTimeoutOption(finWait2)
	syn := tcpip.TCPSynRetriesOption(synRetries)
	for _, o := range []tcpip.SettableTransportProtocolOption{
		&sack, &cubic, &recovery, &moderate, &receive, &send, &wait, &reuse, &linger, &syn,
	} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("set TCP option %T: %w", o, fromTCPIP(err))
		}
	}
	for _, o := range []any{
		tcpip.SendBufferSizeOption{Min: stack.MinBufferSize, Default: datagramBuffer, Max: datagramBuffer},
		tcpip.ReceiveBufferSizeOption{Min: stack.MinBufferSize, Default: datagramBuffer, Max: datagramBuffer},
	} {
		if err := s.SetOption(o); err != nil {
			return fmt.Errorf("set stack option %T: %w", o, fromTCPIP(err))
		}
	}
	if err := s.SetPortRange(firstEphemeral, lastEphemeral); err != nil {
		return fmt.Errorf("set port range: %w", fromTCPIP(err))
	}
	return nil
}

// keepAlive makes the endpoint notice within two minutes that its other end is gone.
func keepAlive(ep tcpip.Endpoint) {
	ep.SocketOptions().SetKeepAlive(true)
	idle, interval := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveInterval)
	// These fail only on endpoints that are not TCP.
	_ = ep.SetSockOpt(&idle)
	_ = ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveCount)
}
