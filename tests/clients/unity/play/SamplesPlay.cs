using System;
using System.Collections.Generic;
using Everscene.Samples;
using UnityEngine;
using static Everscene.Play.Player;

namespace Everscene.Play
{
    /// <summary>The samples, each played for a while against a real server: what they send is accepted and takes hold.</summary>
    static class SamplesPlay
    {
        static readonly List<Receipt> Applied = new List<Receipt>();

        static Action[] Begin<T>(string[] arguments, out T demo, Func<T, EversceneStream> streamOf) where T : MonoBehaviour, new()
        {
            demo = new GameObject(typeof(T).Name).AddComponent<T>();
            Set(demo, "endpoint", arguments[1]);
            Call(demo, "Start");
            EversceneStream stream = streamOf(demo);
            Call(stream, "OnEnable");
            stream.ReceiptChanged += receipt =>
            {
                Must(receipt.State != ReceiptState.Rejected, receipt.ToString());
                if (receipt.IsApplied) Applied.Add(receipt);
            };
            Until(() => stream.Frame.Number > 0 && stream.IsConnected, "a frame", UpdateOf(stream));
            Call(demo, "OnGUI");
            bool moves = typeof(T) != typeof(LivingPainting);
            return moves ? new[] { UpdateOf(demo), UpdateOf(stream) } : new[] { UpdateOf(stream) };
        }

        public static void Painting(string[] arguments)
        {
            Action[] updates = Begin(arguments, out LivingPainting demo, d => d.Stream);
            Must(demo.Stream.TargetRenderer.Block.Set.ContainsValue(demo.Stream.Texture), "the picture hangs");
            GUI.Pressed = "Snow";
            Call(demo, "OnGUI");
            Must(GUI.Pressed == null, "there is a button for snow");
            Until(() => Applied.Count == 1 && Applied[0].Prompt.Contains("snow"), "snow", updates);
        }

        public static void PortalVolumes(string[] arguments)
        {
            Action[] updates = Begin(arguments, out Portal demo, d => d.Stream);
            foreach (EversceneEvents volume in demo.Volumes)
            {
                Call(volume, "OnEnable");
                int before = Applied.Count;
                Call(volume, "OnTriggerEnter", new Collider());
                Until(() => Applied.Count > before, "the world turns", updates);
            }
            Must(Applied[0].Prompt.Contains("forest") && Applied[2].Prompt.Contains("city"), "each volume its own place");
        }

        public static void Skybox(string[] arguments)
        {
            Action[] updates = Begin(arguments, out HealthSkybox demo, d => d.Stream);
            Call(demo.Events, "OnEnable");
            updates = new[] { updates[0], updates[1], UpdateOf(demo.Events) };
            Frames(20, updates);
            Must(RenderSettings.skybox != null && Applied.Count == 0, "a clear sky while all is well");
            demo.Health = 0.1f;
            Until(() => Applied.Count == 1 && Applied[0].Prompt.Contains("heavy storm"), "a heavy storm", updates);
            demo.Health = 1;
            Until(() => Applied.Count == 2 && Applied[1].Prompt.Contains("clear sky"), "a clear sky", updates);
        }
    }
}
