package stripebill

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mcpsaas/mcpsaas/billing"
)

// WebhookOptions configure a [Webhook].
type WebhookOptions struct {
	// Tolerance is how far a signature's time may be from now, before or
	// after. Defaults to 5 minutes.
	Tolerance time.Duration
	// Logger hears of every refusal, with the reason. Nil discards.
	Logger *slog.Logger
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Webhook is the handler of Stripe's webhooks. It verifies, puts the notice
// into the inbox, and answers 200 once that is committed; what the notice means
// is found out later, by a worker. Only what Stripe has signed reaches the
// inbox, of whatever type and API version, so strangers can't fill it.
//
//	200  in the inbox, now or before
//	400  no signature, a wrong or an old one, or no event in the body
//	405  not a POST
//	413  more than 1 MiB
//	500  the inbox failed; Stripe will send it again
type Webhook struct {
	inbox     billing.Inbox
	secrets   [][]byte
	tolerance time.Duration
	log       *slog.Logger
	now       func() time.Time
}

var _ http.Handler = (*Webhook)(nil)

const maxWebhook = 1 << 20

// NewWebhook returns a handler that takes what is signed with any of the
// secrets ("whsec_..."): while one is rotated, both are valid.
func NewWebhook(inbox billing.Inbox, secrets []string, opts *WebhookOptions) (*Webhook, error) {
	var o WebhookOptions
	if opts != nil {
		o = *opts
	}
	w := &Webhook{inbox: inbox, tolerance: o.Tolerance, log: o.Logger, now: o.Now}
	var errs []error
	if inbox == nil {
		errs = append(errs, errors.New("inbox: is nil"))
	}
	if len(secrets) == 0 {
		errs = append(errs, errors.New("secrets: want at least one"))
	}
	for i, s := range secrets {
		s = strings.TrimSpace(s)
		if len(s) < 8 {
			// An empty secret would accept what anyone can sign.
			errs = append(errs, fmt.Errorf("secrets[%d]: want at least 8 characters", i))
		}
		w.secrets = append(w.secrets, []byte(s))
	}
	if o.Tolerance < 0 {
		errs = append(errs, fmt.Errorf("Tolerance: %s is negative", o.Tolerance))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("stripebill: configure webhook: %w", err)
	}
	if w.tolerance == 0 {
		w.tolerance = 5 * time.Minute
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if w.now == nil {
		w.now = time.Now
	}
	return w, nil
}

// ServeHTTP implements [http.Handler].
func (w *Webhook) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		rw.Header().Set("Allow", http.MethodPost)
		http.Error(rw, "webhooks are POSTed", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxWebhook))
	if err != nil {
		status, text := http.StatusBadRequest, "the body can't be read"
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			status, text = http.StatusRequestEntityTooLarge, "the body is larger than 1 MiB"
		}
		w.refuse(rw, r, status, text)
		return
	}
	header := strings.Join(r.Header.Values("Stripe-Signature"), ",")
	if err := verifySignature(body, header, w.secrets, w.now(), w.tolerance); err != nil {
		w.refuse(rw, r, http.StatusBadRequest, err.Error())
		return
	}
	notice, err := parseNotice(body)
	if err != nil {
		w.refuse(rw, r, http.StatusBadRequest, err.Error())
		return
	}
	fresh, err := w.inbox.Accept(r.Context(), notice)
	if err != nil {
		w.log.LogAttrs(r.Context(), slog.LevelError, "webhook not stored",
			slog.String("event", notice.ID), slog.String("type", notice.Type), slog.Any("err", err))
		http.Error(rw, "the event can't be stored now", http.StatusInternalServerError)
		return
	}
	w.log.LogAttrs(r.Context(), slog.LevelDebug, "webhook accepted",
		slog.String("event", notice.ID), slog.String("type", notice.Type), slog.Bool("fresh", fresh))
	rw.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(rw, `{"received":true}`+"\n")
}

func (w *Webhook) refuse(rw http.ResponseWriter, r *http.Request, status int, text string) {
	w.log.LogAttrs(r.Context(), slog.LevelWarn, "webhook refused", slog.Int("status", status), slog.String("reason", text))
	http.Error(rw, text, status)
}

// parseNotice reads the envelope of an event, full or thin, of any API
// version. A thin event names its object under related_object and has its time
// as text (https://docs.stripe.com/event-destinations).
func parseNotice(body []byte) (billing.Notice, error) {
	var event struct {
		ID         string          `json:"id"`
		Type       string          `json:"type"`
		Created    json.RawMessage `json:"created"`
		APIVersion string          `json:"api_version"`
		Livemode   bool            `json:"livemode"`
		Data       struct {
			Object struct {
				ID       string `json:"id"`
				Object   string `json:"object"`
				Customer ref    `json:"customer"`
			} `json:"object"`
		} `json:"data"`
		Related struct {
			ID   string `json:"id"`
			Type string `json:"type"`
		} `json:"related_object"`
	}
	if !utf8.Valid(body) || json.Unmarshal(body, &event) != nil {
		return billing.Notice{}, errors.New("the body is no event: not the JSON of one")
	}
	if !plain(event.ID) || !plain(event.Type) {
		return billing.Notice{}, errors.New("the body is no event: it has no usable id and type")
	}
	n := billing.Notice{
		ID:         event.ID,
		Type:       event.Type,
		ObjectID:   event.Data.Object.ID,
		Customer:   string(event.Data.Object.Customer),
		APIVersion: event.APIVersion,
		Live:       event.Livemode,
		Payload:    body,
	}
	if n.ObjectID == "" {
		n.ObjectID = event.Related.ID
	}
	if n.Customer == "" {
		if event.Data.Object.Object == "customer" || event.Related.Type == "customer" {
			n.Customer = n.ObjectID
		}
	}
	for _, s := range []string{n.ObjectID, n.Customer, n.APIVersion} {
		if s != "" && !plain(s) {
			return billing.Notice{}, errors.New("the body is no event: an id has characters that ids don't have")
		}
	}
	var seconds int64
	var text time.Time
	switch {
	case json.Unmarshal(event.Created, &seconds) == nil && seconds > 0:
		n.Created = time.Unix(seconds, 0).UTC()
	case json.Unmarshal(event.Created, &text) == nil && !text.IsZero():
		n.Created = text.UTC()
	}
	return n, nil
}

// plain reports whether s can be an id or a type: printable ASCII, not too
// long. It will be stored and logged.
func plain(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
