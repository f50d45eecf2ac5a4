package stripetest

import (
	_ "embed"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

//go:embed pages.html
var pagesHTML string

var pageTemplates = template.Must(template.New("").Parse(pagesHTML))

// portal is a session of the customer portal.
type portal struct {
	ID        string `json:"id"`
	Customer  string `json:"customer"`
	ReturnURL string `json:"return_url,omitempty"`
	Created   int64  `json:"created"`
	Config    string `json:"config,omitempty"`
}

func createPortal(c *call) (any, error) {
	if err := c.p.require("customer"); err != nil {
		return nil, err
	}
	who, err := c.customer(c.p.str("customer"), "customer")
	if err != nil {
		return nil, err
	}
	config, err := c.portalConfig(c.p.str("configuration"))
	if err != nil {
		return nil, err
	}
	o := &portal{ID: newID("bps_"), Customer: who.ID, Created: c.at.Unix(), Config: config.ID,
		ReturnURL: firstOf(c.p.str("return_url"), config.ReturnURL)}
	c.s.Portals.put(o.ID, o)
	return object{
		"id": o.ID, "object": "billing_portal.session", "customer": o.Customer, "return_url": orNull(o.ReturnURL),
		"configuration": config.ID, "flow": nil, "locale": nil, "on_behalf_of": nil,
		"url": "http://" + c.r.Host + "/p/session/" + o.ID, "created": o.Created, "livemode": false,
	}, nil
}

// pages registers what a buyer sees. As at Stripe, whoever has the link may
// use it.
func (e *Emulator) pages() {
	e.mux.HandleFunc("GET /c/pay/{id}", e.showCheckout)
	e.mux.HandleFunc("POST /c/pay/{id}", e.submitCheckout)
	e.mux.HandleFunc("GET /p/session/{id}", e.showPortal)
	e.mux.HandleFunc("POST /p/session/{id}", e.submitPortal)
}

type checkoutPage struct {
	Total, Email, Decline, CancelURL string
	Lines                            []string
	Open, Once                       bool
}

func (e *Emulator) showCheckout(w http.ResponseWriter, r *http.Request) {
	e.change(func() { e.roll() })
	e.mu.Lock()
	s, ok := e.s.Sessions.get(r.PathValue("id"))
	var p checkoutPage
	if ok {
		p = checkoutPage{Total: money(e.total(s)), Email: s.Email, Decline: s.Decline, CancelURL: s.CancelURL, Open: s.Status == "open", Once: s.Mode == "payment"}
		if who := e.s.Customers.Rows[s.Customer]; who != nil {
			p.Email = who.Email
		}
		for _, it := range s.Items {
			p.Lines = append(p.Lines, e.describe(it))
		}
	}
	e.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	status := http.StatusOK
	if !p.Open {
		status = http.StatusGone
	}
	render(w, status, "checkout", p)
}

// submitCheckout pays, and goes on to the success URL. Submitted again, it
// goes on all the same.
func (e *Emulator) submitCheckout(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<16)
	id := r.PathValue("id")
	declined := r.FormValue("card") == "decline"
	var target string
	e.change(func() {
		e.roll()
		s, ok := e.s.Sessions.get(id)
		switch {
		case !ok || s.Status == "expired":
		case s.Status == "complete":
			target = s.success()
		case declined && e.total(s) > 0:
			s.Decline = "Your card was declined."
			target = "/c/pay/" + id
		default:
			e.complete(s, strings.TrimSpace(r.FormValue("email")), r.FormValue("card") == "later")
			target = s.success()
		}
	})
	if target == "" {
		http.NotFound(w, r)
		return
	}
	http.Redirect(w, r, target, http.StatusSeeOther)
}

// success is the success URL with the session's id in it.
func (s *session) success() string {
	return strings.ReplaceAll(strings.ReplaceAll(s.SuccessURL, "{CHECKOUT_SESSION_ID}", s.ID), url.QueryEscape("{CHECKOUT_SESSION_ID}"), s.ID)
}

type portalPage struct {
	Email, ReturnURL string
	Subscriptions    []portalLine
}

type portalLine struct {
	ID, Status, Until string
	Items             []string
	Ending, Ended     bool
}

func (e *Emulator) showPortal(w http.ResponseWriter, r *http.Request) {
	e.change(func() { e.roll() })
	e.mu.Lock()
	o, ok := e.s.Portals.get(r.PathValue("id"))
	var p portalPage
	if ok {
		p = portalPage{Email: e.s.Customers.Rows[o.Customer].Email, ReturnURL: o.ReturnURL}
		for _, sub := range e.s.Subscriptions.all() {
			if sub.Customer != o.Customer {
				continue
			}
			l := portalLine{ID: sub.ID, Status: sub.Status, Ending: sub.CancelAtPeriodEnd, Ended: sub.ended(), Until: date(sub.PeriodEnd)}
			for _, it := range sub.Items {
				l.Items = append(l.Items, e.describe(it))
			}
			p.Subscriptions = append(p.Subscriptions, l)
		}
	}
	e.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	render(w, http.StatusOK, "portal", p)
}

// submitPortal ends a subscription with its period, takes that back, or ends
// it at once.
func (e *Emulator) submitPortal(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<16)
	found := false
	e.change(func() {
		e.roll()
		o, ok := e.s.Portals.get(r.PathValue("id"))
		if !ok {
			return
		}
		sub, ok := e.s.Subscriptions.get(r.FormValue("subscription"))
		if !ok || sub.Customer != o.Customer || sub.ended() {
			return
		}
		switch r.FormValue("action") {
		case "cancel", "resume":
			sub.CancelAtPeriodEnd = r.FormValue("action") == "cancel"
			e.emitSubscription("updated", sub)
		case "end":
			e.end(sub, e.timeOf(sub.Customer).Unix(), true)
		default:
			return
		}
		found = true
	})
	if !found {
		http.NotFound(w, r)
		return
	}
	http.Redirect(w, r, r.URL.Path, http.StatusSeeOther)
}

// describe names an item for a reader. It needs the lock.
func (e *Emulator) describe(it *item) string {
	p := e.s.Prices.Rows[it.Price]
	name := p.Product
	if product := e.s.Products.Rows[p.Product]; product != nil {
		name = product.Name
	}
	if p.Metered {
		return name + ": " + p.Decimal + " " + p.Currency + " (smallest unit) for each unit used"
	}
	text := name + ": " + money(p.cost(it.Quantity)) + " " + strings.ToUpper(p.Currency)
	if p.oneTime() {
		return text
	}
	return text + " per " + p.Interval
}

// money shows cents; the few currencies without them are shown as if they had.
func money(cents int64) string {
	return strconv.FormatInt(cents/100, 10) + "." + strconv.FormatInt(100+cents%100, 10)[1:]
}

func render(w http.ResponseWriter, status int, name string, data any) {
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = pageTemplates.ExecuteTemplate(w, name, data) // the reader went away
}

func date(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.DateOnly) }
