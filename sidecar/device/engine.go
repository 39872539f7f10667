package device

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	wg "github.com/tailscale/wireguard-go/device"
)

// The engine's queues count batches, each of up to 128 packets or 128 KiB. Their defaults (1024) let a gateway hold hundreds of
// megabytes and make a request wait behind all of it. Short ones push back instead: outbound on TCP's writers through
// netstack's queue, inbound on the socket's buffer, which the sender's congestion control sees.
const (
	queueStaged    = 64 // while a handshake is under way; mostly single packets
	queueOutbound  = 16
	queueInbound   = 32
	queueHandshake = 256
)

func engineOptions() []wg.Option {
	return []wg.Option{
		wg.WithQueueStagedSize(queueStaged),
		wg.WithQueueOutboundSize(queueOutbound),
		wg.WithQueueInboundSize(queueInbound),
		wg.WithQueueHandshakeSize(queueHandshake),
	}
}

// engineLog sends what the engine prints to slog: its chatter at debug, its errors at warn, since it goes on after each. It
// prints peers by an abbreviated public key and never a secret one.
func engineLog(l *slog.Logger) *wg.Logger {
	at := func(level slog.Level) func(string, ...any) {
		return func(format string, args ...any) {
			if l.Enabled(context.Background(), level) {
				l.Log(context.Background(), level, "wireguard: "+fmt.Sprintf(format, args...))
			}
		}
	}
	return &wg.Logger{Verbosef: at(slog.LevelDebug), Errorf: at(slog.LevelWarn)}
}

// wantBuffer is the socket buffer that the engine asks for. A pod without privileges gets at most net.core.rmem_max, often
// 208 KiB: everything works, but a burst that finds the reader busy is lost and sent again.
const wantBuffer = 7 << 20

func warnSmallBuffers(l *slog.Logger) {
	b, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if err != nil {
		return // not Linux, or hidden from us: nothing to say
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n < wantBuffer {
		l.Info("the node limits UDP receive buffers; raise the sysctl for more throughput under load",
			"sysctl", "net.core.rmem_max", "bytes", n, "wanted", wantBuffer)
	}
}
