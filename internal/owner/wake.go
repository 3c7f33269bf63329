package owner

// Wake sends to ch unless it is full: with room for one, a message that waits stands for all.
func Wake(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
