using System;

namespace Everscene
{
    /// <summary>What the client does with what it hears.</summary>
    public sealed partial class EversceneClient
    {
        const double RawBytesPerSecond = 50e6;

        readonly Meter ages = new Meter();
        readonly Meter seenTimes = new Meter();
        Transport transport;
        long shown;
        long reconnects;
        long shownAtMark;
        long markMs;
        double fps;

        /// <summary>Figures as of now. Sorts a few hundred numbers: for a read-out, not for every frame.</summary>
        public ClientStatistics Statistics => new ClientStatistics
        {
            Fps = fps,
            Shown = shown,
            Skipped = Frames.Skipped,
            Lost = Frames.Lost,
            Torn = Frames.Torn,
            Reconnects = reconnects,
            AgeP50Ms = ages.Quantile(0.5),
            AgeP95Ms = ages.Quantile(0.95),
            SeenP50Ms = seenTimes.Quantile(0.5),
            SeenP95Ms = seenTimes.Quantile(0.95),
            Transport = transport,
        };

        /// <summary>
        /// To be called when a frame was put on screen: counts it, and tells the server of the first frame that shows an
        /// event, which makes the latency from event to screen known.
        /// </summary>
        public void MarkShown(ref FrameInfo info)
        {
            shown++;
            ages.Add((clock.ServerNow - info.CommitNs) / 1e6);
            for (int i = unseen.Count - 1; i >= 0; i--)
            {
                Receipt receipt = unseen[i];
                if (info.Number < receipt.Frame) continue;
                unseen.RemoveAt(i);
                receipt.MarkSeen(UnixClock.SystemNow);
                seenTimes.Add(receipt.SeenMs);
                Post(Messages.Seen(writer, receipt.Frame, clock.ServerNow));
            }
        }

        void Hear(ref News item)
        {
            switch (item.Kind)
            {
                case NewsKind.Welcome: HearWelcome((Welcome)item.Payload, (int)item.Number); break;
                case NewsKind.Disconnected: HearDisconnected(item.Text); break;
                case NewsKind.Refused: State = ClientState.Refused; LoseAll(item.Text); break;
                case NewsKind.Trouble: HearTrouble(item.Text); break;
                case NewsKind.Receipt: HearReceipt((ReceiptNews)item.Payload); break;
                case NewsKind.Pong: HearPong(item.Number); break;
                case NewsKind.Stats: LatestStats = (ServerStats)item.Payload; StatsReceived?.Invoke(LatestStats); break;
                case NewsKind.Prompt: Prompt = item.Text; PromptChanged?.Invoke(item.Text, item.Number); break;
                case NewsKind.State: ServerState = item.Text; ServerStateChanged?.Invoke(item.Text, (string)item.Payload); break;
                case NewsKind.Scene: Scene = (SceneDescription)item.Payload; SceneChanged?.Invoke(Scene); break;
                case NewsKind.Input: InputAccepted?.Invoke(item.Text, (string)item.Payload); break;
            }
        }

        void HearWelcome(Welcome welcome, int number)
        {
            bool news = State != ClientState.Connected;
            bool again = Welcome != null && news;
            State = ClientState.Connected;
            session = number;
            if (epoch != 0 && epoch != welcome.Epoch)
            {
                LoseUnnamed("the server was started anew");
                unseen.Clear();
            }
            epoch = welcome.Epoch;
            Welcome = welcome;
            Scene = welcome.Scene;
            Prompt = welcome.Prompt;
            ServerState = welcome.State;
            LastError = lastTrouble = framesProblem = "";
            pingsSoon = 4;
            choresAtMs = 0;
            if (again) reconnects++;
            if (answersDueMs >= 0) answersDueMs = ControlLink.NowMs + UnansweredMs;
            SendAgain();
            marker = nextId++;
            Post(Messages.Ping(writer, marker, UnixClock.SystemNow));
            if (news) Connected?.Invoke(welcome);
            else SceneChanged?.Invoke(Scene);
        }

        void HearDisconnected(string reason)
        {
            State = ClientState.Connecting;
            LastError = reason;
            ServerState = "";
            // What was under way may be answered on the next connection; not for ever.
            if (open.Count > 0 && answersDueMs < 0) answersDueMs = ControlLink.NowMs + ReceiptsKeptMs;
            Disconnected?.Invoke(reason);
        }

        void HearTrouble(string words)
        {
            LastError = words;
            if (words == lastTrouble) return;
            lastTrouble = words;
            Failed?.Invoke(words);
        }

        void HearReceipt(ReceiptNews heard)
        {
            Receipt receipt;
            if (!open.TryGetValue(heard.Id, out receipt)) return;
            if (heard.Code == "duplicate_id") return; // sent again, and known already
            bool isUnheard = heard.Code == "no_hello";
            receipt.Session = isUnheard ? Receipt.Unheard : session;
            if (isUnheard) return; // sent again after the next welcome
            if (!receipt.Advance(heard)) return;
            if (receipt.IsFinal) open.Remove(receipt.Id);
            if (receipt.IsApplied) unseen.Add(receipt);
            ReceiptChanged?.Invoke(receipt);
            receipt.Resume();
        }

        // The server has named all that it knows of.
        void HearPong(long id)
        {
            if (id != marker) return;
            answersDueMs = -1;
            LoseUnnamed("the connection was lost, and its receipt with it");
        }

        void CheckFrames(long nowMs)
        {
            string problem = State == ClientState.Connected ? frames.Problem(nowMs) : "";
            if (problem == framesProblem) return;
            if (problem.Length > 0) HearTrouble(problem);
            else if (LastError == framesProblem) LastError = lastTrouble = "";
            framesProblem = problem;
        }

        void DoChores(long nowMs)
        {
            CheckFrames(nowMs);
            control.CheckHello();
            if (Frames.TakeNeedsHello()) control.RequestHello();
            control.TakeExpired(UnsentMs, expired);
            foreach (Outgoing message in expired)
                if (message.Receipt != null && message.Receipt.Session == Receipt.NotYet)
                    Reject(message.Receipt, "not_connected", "no connection to " + endpoint + " for 5 s"
                        + (LastError.Length > 0 ? ": " + LastError : ""));
            expired.Clear();
            if (answersDueMs >= 0 && nowMs > answersDueMs)
            {
                answersDueMs = -1;
                LoseUnnamed("no answer came after the connection was lost");
            }
            if (State == ClientState.Connected && (pingsSoon > 0 || nowMs >= pingAtMs)) Ping(nowMs);
            if (nowMs - markMs < 1000) return;
            fps = markMs == 0 ? 0 : (shown - shownAtMark) * 1000.0 / (nowMs - markMs);
            markMs = nowMs;
            shownAtMark = shown;
        }

        void Ping(long nowMs)
        {
            pingAtMs = nowMs + PingEveryMs;
            if (pingsSoon > 0) pingsSoon--;
            Post(Messages.Ping(writer, nextId++, UnixClock.SystemNow));
        }

        // Sent, and neither repeated nor named in the present session; while there is none, sent at all.
        bool IsUnnamed(Receipt receipt) =>
            receipt.Session != Receipt.NotYet && (State != ClientState.Connected || receipt.Session < session);

        // What was not accepted may never have arrived. The server takes it once, however often it comes.
        void SendAgain()
        {
            long now = ControlLink.NowMs;
            chosen.Clear();
            foreach (Receipt receipt in open.Values)
                if (IsUnnamed(receipt) && receipt.Message != null && now - receipt.Message.BornMs <= SendAgainMs) chosen.Add(receipt);
            chosen.Sort((one, other) => one.Id.CompareTo(other.Id));
            foreach (Receipt receipt in chosen)
                control.Post(new Outgoing { Bytes = receipt.Message.Bytes, Receipt = receipt, BornMs = now });
        }

        void LoseAll(string reason)
        {
            chosen.Clear();
            chosen.AddRange(open.Values);
            Lose(reason);
            unseen.Clear();
        }

        // What still waits to be sent has a time limit of its own.
        void LoseUnnamed(string reason)
        {
            chosen.Clear();
            foreach (Receipt receipt in open.Values)
                if (IsUnnamed(receipt)) chosen.Add(receipt);
            Lose(reason);
        }

        void Lose(string reason)
        {
            foreach (Receipt receipt in chosen)
                HearReceipt(new ReceiptNews { Id = receipt.Id, State = ReceiptState.Lost, Reason = reason });
        }

        // On the control thread, before the news of the welcome: where will frames come from? Gives what is wrong with them,
        // or null.
        string Attach(Welcome welcome)
        {
            clock.Reset();
            string problem = null;
            Endpoint framesEndpoint = FramesEndpointOf(welcome);
            FrameTransport wish = settings.Transport;
            FrameRing ring = null;
            if (wish == FrameTransport.Auto || wish == FrameTransport.Ring) ring = TryOpen(welcome.Ring, out problem);
            if (wish == FrameTransport.Auto) problem = null; // on another machine there is no such file: then through the socket
            double rate = (double)welcome.Width * welcome.Height * 4 * welcome.Fps;
            bool raw = wish == FrameTransport.Raw || wish == FrameTransport.Auto && rate <= RawBytesPerSecond;
            transport = ring != null || wish == FrameTransport.Ring ? Transport.Ring : raw ? Transport.Raw : Transport.Jpeg;
            Frames.SetRing(ring);
            frames.Follow(new FramesPlan
            {
                Endpoint = framesEndpoint,
                Transport = transport,
                Epoch = welcome.Epoch,
            });
            return problem;
        }

        Endpoint FramesEndpointOf(Welcome welcome)
        {
            try
            {
                return Endpoint.Parse(welcome.FramesEndpoint).WithHost(endpoint.Host);
            }
            catch (ArgumentException cause)
            {
                throw new MessageException("the frames endpoint in welcome: " + cause.Message, cause);
            }
        }

        FrameRing TryOpen(RingAddress address, out string problem)
        {
            problem = null;
            try
            {
                if (address != null) return FrameRing.Open(address.Path, address.RingId, settings.MayMap);
                problem = "no frames: the server has no ring, and no other way is allowed";
            }
            catch (RingException failure)
            {
                problem = failure.Message;
            }
            return null;
        }

        // On the frames thread.
        void ChangeRing(RingAddress address)
        {
            if (transport != Transport.Ring) return;
            string problem;
            FrameRing next = TryOpen(address, out problem);
            if (next != null) Frames.SetRing(next);
            else control.RequestHello();
        }
    }
}
