package wireguard

// onlooker is who is shown packets as they are inside the tunnel.
type onlooker func(packet []byte)

// SetTap sets who is shown packets; see datapath.Tapper. Where nobody is, it costs one look at a nil pointer for each message that is
// received, and for each batch that is sent.
func (e *Engine) SetTap(take func(packet []byte)) {
	if take == nil {
		e.tap.Store(nil)
		return
	}
	t := onlooker(take)
	e.tap.Store(&t)
}

// tapSent shows what is about to be encrypted.
func (e *Engine) tapSent(b *Batch) {
	t := e.tap.Load()
	if t == nil {
		return
	}
	for i := range b.Len() {
		(*t)(b.Packet(i))
	}
}
